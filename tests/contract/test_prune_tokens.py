"""Layers that drop tokens: which, how many, and that no text's answer depends on another's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.binding import bind
from converter.distill.soft import SoftLabels
from converter.errors import RecipeError, SourceError, UsageError
from converter.graphs import MODEL
from converter.model_folder.dropped_tokens import DroppingLayer, TokenDropping, Tokens, masking
from converter.model_folder.load import load_source
from converter.model_folder.replacements import put_empty, stand_ins
from converter.model_folder.save import save_model
from converter.model_folder.token_shares import WHOLE, left_of
from converter.onnx.export import ExportOnnx
from converter.prune.tokens import TokenPruning
from converter.recipe import bind_recipe
from converter.reference import feed_of, torch_run
from converter.registry import stage_class
from converter.stage import check_stage, run_stage, run_stages
from converter.stage_cache.artifacts import read_artifact, write_artifact
from converter.stage_cache.cache import open_cache
from converter.stage_cache.identity import artifact_key, base_key
from converter.surgery.resize import shallower
from converter.surgery.tokens import dropping_of, products_at, reads_one_token, with_dropping, work_of
from converter.training.objective import DistillationObjective, losses
from converter.training.options import LossWeights
from converter.training.relations import RelationPlan
from tests.pruning import PLAIN, context
from tests.tiny import make_tiny_sentence_transformer

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra")
TASKS = ("text-classification", "question-answering")
SHARES = {0: 700, 1: 500}


def dropping(tiny: Callable[..., Path], family: str = "bert", task: str = "text-classification") -> TorchModel:
    return with_dropping(load_source(str(tiny(family, task))), SHARES, "attention")


def encodings_of(model: TorchModel) -> list[Any]:
    found = [model.task.encode(model.tokenizer, e, model.max_length) for e in PLAIN[:6]]
    assert len({e.length for e in found}) > 3
    return found


def own_answers(model: TorchModel, run: Any, together: bool) -> list[np.ndarray]:
    """Return the outputs of each text, cut to its own tokens: of one batch, or of a batch each."""
    encodings, spec = encodings_of(model), model.specs[MODEL]
    if together:
        made = run(MODEL, feed_of(model, encodings))
        rows = [spec.own_of(made, e.lengths, row=i) for i, e in enumerate(encodings)]
    else:
        rows = [spec.own_of(run(MODEL, feed_of(model, [e])), e.lengths, row=0) for e in encodings]
    return [row[name] for row in rows for name in spec.output_names]


def is_batch_exact(model: TorchModel, run: Any = None) -> bool:
    run = run or torch_run(model)
    pairs = zip(own_answers(model, run, True), own_answers(model, run, False), strict=True)
    return all(np.allclose(a, b, atol=2e-5) for a, b in pairs)


# --- exact in the batch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_texts_answer_does_not_depend_on_its_neighbours(tiny: Callable[..., Path], family: str) -> None:
    model, whole = dropping(tiny, family), load_source(str(tiny(family)))
    assert is_batch_exact(model)
    kept, all_of_them = (own_answers(m, torch_run(m), True)[0] for m in (model, whole))
    assert not np.allclose(kept, all_of_them, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_of_a_package_too_an_answer_does_not_depend_on_its_neighbours(
    tiny: Callable[..., Path], tmp_path: Path, task: str
) -> None:
    model = dropping(tiny, "bert", task)
    made, _ = run_stages([ExportOnnx()], model, context(tmp_path))
    assert is_batch_exact(model, made.runs())


@pytest.mark.parametrize(("longest", "share"), [(8, 700), (63, 50)])
def test_many_layers_that_drop_are_one_graph_of_any_length(
    tiny: Callable[..., Path], tmp_path: Path, longest: int, share: int
) -> None:
    """Of few tokens, or with a small share, one is left of the text that is traced; the file takes any length."""
    source = replace(load_source(str(tiny("bert", layers=6))), max_length=longest)
    model = with_dropping(source, dict.fromkeys(range(1, 5), share), "attention")
    _, record = run_stage(ExportOnnx(), model, context(tmp_path))
    assert record.facts["max_relative_error"] < 1e-4
    assert {"3x1", f"1x{longest}"} <= set(record.facts["shapes"])
    assert record.facts["idle_biases"] == 12, "keys' and values' of all layers, those that rank tokens too"


def test_a_count_by_the_width_of_the_batch_is_noticed(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, of = dropping(tiny), Tokens.of

    def padded(mask: torch.Tensor | None, hidden: torch.Tensor, **how: bool) -> Tokens:
        made = of(mask, hidden, **how)
        made.count = torch.full_like(made.count, hidden.shape[1])
        return made

    monkeypatch.setattr(Tokens, "of", padded)
    assert not is_batch_exact(model)


def test_scores_that_padding_adds_to_are_noticed(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, score = dropping(tiny), DroppingLayer._score

    def of_all(self: Any, weights: torch.Tensor, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return score(self, weights, value, torch.ones_like(own))

    monkeypatch.setattr(DroppingLayer, "_score", of_all)
    assert not is_batch_exact(model)


# --- what is dropped --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["attention", "values", "first"])
def test_the_tokens_of_the_highest_score_stay_and_the_first_always(tiny: Callable[..., Path], score: Any) -> None:
    model = with_dropping(load_source(str(tiny())), {1: 500}, score)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(self: Tokens, states: torch.Tensor, values: torch.Tensor, share: int) -> torch.Tensor:
        made = drop(self, states, values, share)
        seen.append((values[0], made[0]))
        chosen = torch.sort(values[0], descending=True).indices[: left_of(len(values[0]), share)]
        assert chosen[0] == 0
        assert torch.equal(made[0], states[0][chosen])
        return made

    drop = Tokens.drop
    Tokens.drop = keep  # type: ignore[method-assign]
    try:
        torch_run(model)(MODEL, feed_of(model, encodings_of(model)[:1]))
    finally:
        Tokens.drop = drop  # type: ignore[method-assign]
    assert len(seen) == 1


@pytest.mark.parametrize("task", TASKS)
def test_what_trains_answers_as_what_ships(tiny: Callable[..., Path], task: str) -> None:
    model = dropping(tiny, "bert", task)
    wanted = own_answers(model, torch_run(model), True)
    with masking(model.module):
        found = own_answers(model, torch_run(model), True)
    assert all(np.allclose(a, b, atol=2e-5) for a, b in zip(wanted, found, strict=True))
    found = own_answers(model, torch_run(model), True)
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)), "taken out again"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", [{}, {"dropout": True}, {"relation_weight": 1.0, "cache_mb": 0}])
def test_what_drops_tokens_learns_states_and_relations_of_its_source(
    tiny: Callable[..., Path], tmp_path: Path, task: str, options: dict[str, Any]
) -> None:
    """Token by token, with whatever options; trained, it drops tokens as before."""
    source = load_source(str(tiny("bert", task)))
    given = dropping(tiny, "bert", task)
    ctx = replace(context(tmp_path), teacher=source)
    outcome = SoftLabels(epochs=12, learning_rate=2e-3, batch_size=8, **options).run(given, ctx)
    made = outcome.made
    parts = [outcome.facts[f"{which}_parts"] for which in ("first", "last")]
    assert parts[0].keys() >= {"soft", "hidden"}
    assert outcome.facts["last_loss"] < outcome.facts["first_loss"]
    assert dropping_of(made) == dropping_of(given)
    assert not any(part.masks for part in made.module.modules() if isinstance(part, TokenDropping))
    with masking(made.module):
        masked = own_answers(made, torch_run(made), True)
    taken_out = own_answers(made, torch_run(made), True)
    assert all(np.allclose(a, b, atol=2e-5) for a, b in zip(masked, taken_out, strict=True))
    assert is_batch_exact(made)


def test_tokens_that_the_student_dropped_count_in_no_loss_of_states_or_relations(tiny: Callable[..., Path]) -> None:
    source, student = load_source(str(tiny())), dropping(tiny)
    objective = DistillationObjective((0, 1, 2), RelationPlan(2, 2, 2))
    feed = feed_of(student, encodings_of(student))
    own = torch.from_numpy(feed["attention_mask"]).bool()
    fed = {name: torch.from_numpy(values) for name, values in feed.items()}
    with torch.no_grad(), masking(student.module):
        seen, wanted = objective.student(student)(fed), objective.teacher(source)(fed)
    left = [rows & own for rows in seen.left]
    counts = [own.sum(1), *(rows.sum(1) for rows in left)]
    assert [c.tolist() for c in counts[1:]] == [
        [left_of(left_of(int(n), 700), share) for n in counts[0]] for share in (1000, 500, 500, 500)
    ]
    weights = LossWeights(soft=0.0, hard=0.0, hidden=1.0, temperature=1.0, relation=1.0)

    def found(states: torch.Tensor | None = None, at: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both losses where the teacher's states of layer `at`, and its relations, are spoiled at `states`."""
        spoiled = lambda values: values if states is None else values + 1e3 * states[:, :, None]  # noqa: E731
        hidden = tuple(spoiled(h) if i == at else h for i, h in enumerate(wanted.hidden))
        other = wanted._replace(hidden=hidden, relations=tuple(map(spoiled, wanted.relations)))
        made = losses(objective, weights, student.task, seen, other, feed_mask, ())
        return made["hidden"], made["relation"]

    feed_mask = fed["attention_mask"]
    good = found()
    assert all(torch.equal(a, b) for a, b in zip(good, found(own & ~left[1]), strict=True))
    assert not any(torch.isclose(a, b) for a, b in zip(good, found(left[1]), strict=True))
    assert torch.equal(good[0], found(own & ~left[0], 0)[0])
    assert not torch.isclose(good[0], found(left[0] & ~left[1], 0)[0]), "the first layer still has them"


def test_of_a_source_that_drops_tokens_a_student_that_does_learns_too(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = dropping(tiny)
    wanted = own_answers(source, torch_run(source), True)
    SoftLabels(steps=2, relation_weight=1.0).run(source, replace(context(tmp_path), teacher=source))
    found = own_answers(source, torch_run(source), True)
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)), "the teacher is left as it was"


def test_a_dropped_token_gives_the_last_state_that_it_had(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(make_tiny_sentence_transformer(tmp_path / "model")))
    model = with_dropping(source, {1: 500}, "attention")
    states: list[torch.Tensor] = []
    whole = model.module.encoder.layer[1].attention.output  # type: ignore[union-attr, index]
    whole.register_forward_hook(lambda *given: states.append(given[2]))
    feed = feed_of(model, encodings_of(model)[:1])
    last = torch.from_numpy(torch_run(model)(MODEL, feed)["last_hidden_state"][0])
    same = (last[:, None] - states[0][0][None]).abs().amax(-1) < 1e-6
    length = len(last)
    assert int(same.diagonal().sum()) == length - left_of(length, 500), "the others went through the FFN and on"
    assert int(same.sum()) == int(same.diagonal().sum()), "each at its own place"


@pytest.mark.parametrize("task", TASKS)
def test_products_are_those_that_a_counter_counts(tiny: Callable[..., Path], task: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    source = load_source(str(tiny("bert", task)))
    for shares in ({}, SHARES):
        model = with_dropping(source, shares, "attention") if shares else source
        loop: Any = model.module.base_model.encoder  # type: ignore[union-attr]
        model.module.set_attn_implementation("eager")  # type: ignore[operator]
        length, layers = 24, work_of(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            loop(torch.randn(1, length, model.config.hidden_size), None)
        assert counter.get_total_flops() == 2 * products_at(layers, length, shares, one_token=False)


# --- the stage --------------------------------------------------------------------------------------------------


def test_a_goal_of_products_is_met_and_one_out_of_reach_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", layers=4)))
    _, record = run_stage(TokenPruning(products=0.7), source, context(tmp_path))
    assert 0.6 < record.facts["products_left"] <= 0.7
    assert record.facts["layers"] == [1, 2]
    with pytest.raises(UsageError, match="least share of the products"):
        run_stage(TokenPruning(products=0.1), source, context(tmp_path))


def test_a_step_that_does_not_pay_says_so(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", layers=4)))
    _, record = run_stage(TokenPruning(keep=0.99), source, context(tmp_path))
    assert "leave this step out" in record.facts["does_not_pay"]
    _, record = run_stage(TokenPruning(keep=0.4), source, context(tmp_path))
    assert "does_not_pay" not in record.facts


def test_what_drops_tokens_opens_again_and_is_kept_between_runs(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny()))
    made, _ = run_stage(TokenPruning(keep=0.5, first_layer=0), source, context(tmp_path))
    assert isinstance(made, TorchModel)
    save_model(made, tmp_path / "saved")
    (tmp_path / "kept").mkdir()
    table = write_artifact(made, source, tmp_path / "kept")
    wanted = own_answers(made, torch_run(made), True)
    for again in (load_source(str(tmp_path / "saved")), read_artifact(table, source, tmp_path / "kept")):
        assert isinstance(again, TorchModel)
        assert dropping_of(again) == dropping_of(made)
        found = own_answers(again, torch_run(again), True)
        assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_models_that_differ_in_the_tokens_they_drop_alone_are_told_apart(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny()))
    made = [source, *(with_dropping(source, {0: share}, "attention") for share in (500, 700))]
    assert len({model.digest for model in made}) == 3
    assert len({artifact_key(model) for model in made}) == 3
    assert made[1].digest == with_dropping(source, {0: 500}, "attention").digest


def test_the_source_is_left_as_it_was(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny()))
    before = own_answers(source, torch_run(source), True)
    run_stage(TokenPruning(keep=0.5, first_layer=0), source, context(tmp_path))
    assert dropping_of(source) is None
    after = own_answers(source, torch_run(source), True)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"keep": 0}, "between 0.01 and 1"),
        ({"keep": 1.2}, "between 0.01 and 1"),
        ({"keep": 1}, "all tokens would be kept"),
        ({"layers": [2, 1]}, "ascending"),
        ({"layers": [1], "first_layer": 0}, "not both"),
        ({"products": 0.5, "keep": 0.6}, "one of them"),
        ({"score": "luck"}, "not a choice"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        bind(TokenPruning, options, "compress[0]")


@pytest.mark.parametrize("options", [{"first_layer": 2}, {"layers": (2,)}, {"layers": (0, 7)}])
def test_a_layer_with_none_behind_it_to_save_work_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match="the last layer that can drop tokens for others to save work is 1"):
        run_stage(TokenPruning(**options), load_source(str(tiny())), context(tmp_path))


@pytest.mark.parametrize("task", ["token-classification", "fill-mask"])
def test_a_task_that_needs_every_token_is_refused_by_name(tiny: Callable[..., Path], task: str) -> None:
    with pytest.raises(UsageError, match=f"{task} answers for every token"):
        TokenPruning().check(load_source(str(tiny("bert", task))), has_text=True)


@pytest.mark.parametrize("family", ["mpnet", "albert", "deberta-v2", "modernbert"])
def test_a_family_whose_layers_are_not_taken_apart_is_refused_by_name(tiny: Callable[..., Path], family: str) -> None:
    with pytest.raises(UsageError, match=f"layers of {family} cannot drop tokens") as caught:
        TokenPruning().check(load_source(str(tiny(family))), has_text=True)
    assert "distilbert" in str(caught.value.hint)


def test_tokens_are_dropped_once_and_behind_what_cuts_layers(tiny: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="drop tokens already"):
        TokenPruning().check(dropping(tiny), has_text=True)
    for later in ("prune.structured", "prune.layers", "factorize.linears"):
        with pytest.raises(RecipeError, match=f"{later} cannot come after prune.tokens"):
            bind_recipe({"compress": [{"stage": "prune.tokens"}, {"stage": later}]})


def test_counts_are_the_same_in_whole_numbers_and_in_floats() -> None:
    """ONNX divides in float32 and rounds down: exact for every length and share that there is."""
    lengths = np.arange(1, 4097, dtype=np.float32)
    for share in (1, 333, 500, 700, 999, 1000):
        rows = (lengths * share + (WHOLE - 1)) / np.float32(WHOLE)
        assert np.floor(rows).astype(int).tolist() == [left_of(n, share) for n in range(1, 4097)]


def test_a_classifier_reads_one_token_and_the_others_every(tiny: Callable[..., Path]) -> None:
    assert reads_one_token(load_source(str(tiny())))
    assert not reads_one_token(load_source(str(tiny("bert", "question-answering"))))


# --- a saved model that drops tokens ----------------------------------------------------------------------------


BARRED = ("prune.structured", "prune.threshold", "prune.layers", "share.layers", "factorize.linears")


@pytest.mark.parametrize("later", BARRED)
def test_what_cannot_come_behind_in_a_recipe_cannot_in_a_later_run(tiny: Callable[..., Path], later: str) -> None:
    stage = bind(stage_class(later), {}, "compress[0]")
    with pytest.raises(UsageError, match=rf"made with prune\.tokens .*: {later} cannot come after that") as caught:
        check_stage(stage, dropping(tiny), has_text=True)
    assert caught.value.exit_code == 2
    assert f"with {later} first and prune.tokens behind it" in str(caught.value.hint)
    assert not TokenPruning.marks(load_source(str(tiny())))


def test_what_may_come_behind_may_in_a_later_run(tiny: Callable[..., Path]) -> None:
    check_stage(bind(stage_class("distill.soft"), {}, "compress[0]"), dropping(tiny), has_text=True)
    with pytest.raises(UsageError, match="drop tokens already"):
        check_stage(bind(stage_class("prune.tokens"), {}, "compress[0]"), dropping(tiny), has_text=True)


def test_without_a_layer_that_drops_a_model_is_one_that_never_did(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny("bert", layers=3)))
    wanted, found = (shallower(model, (0, 2)) for model in (source, with_dropping(source, {1: 500}, "attention")))
    assert dropping_of(found) is None
    assert not stand_ins(found.module)
    assert found.digest == wanted.digest
    pairs = zip(*(own_answers(model, torch_run(model), True) for model in (wanted, found)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert dropping_of(shallower(with_dropping(source, {1: 500}, "attention"), (0, 1))) is not None


DAMAGE: dict[str, tuple[Any, ...]] = {
    "restores": ("no", 1),
    "keep": ([300.9, 500], [True, 500], [300, 1001], [300], "12"),
    "layers": ([1, 1], [1, 0], [0.0, 1], [-1, 1], [0, 9], "01", {"0": 1, "1": 2}, []),
    "score": ("luck", ["attention"]),
}


@pytest.mark.parametrize("damage", [{name: value} for name, values in DAMAGE.items() for value in values])
def test_a_damaged_list_of_layers_is_refused_by_name(tiny: Callable[..., Path], damage: dict[str, Any]) -> None:
    spec = {"kind": TokenDropping.kind, "layers": [0, 1], "keep": [300, 900], "score": "first", "restores": False}
    put_empty(load_source(str(tiny())).module, {"bert.encoder": spec}, "folder")
    with pytest.raises(SourceError, match=r"the replacement of bert\.encoder is damaged") as caught:
        put_empty(load_source(str(tiny())).module, {"bert.encoder": spec | damage}, "folder")
    assert caught.value.exit_code == 4


def test_tokens_without_a_state_are_refused_where_the_head_reads_every_one(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_model(dropping(tiny, "bert", "question-answering"), folder)
    load_source(str(folder))
    path = folder / "stand_ins.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"restores": true', '"restores": false'), encoding="utf-8")
    with pytest.raises(SourceError, match="drop tokens that question-answering answers for") as caught:
        load_source(str(folder))
    assert "prune.tokens" in str(caught.value.hint)


def test_what_drops_tokens_is_exported_anew_and_other_shares_too(tiny: Callable[..., Path], tmp_path: Path) -> None:
    cache, source = open_cache(str(tmp_path / "cache"), note=print), load_source(str(tiny()))
    ctx = replace(context(tmp_path), cache=cache)
    chains = ([], [TokenPruning(keep=0.5, first_layer=0)])
    runs = [run_stages([*chain, ExportOnnx()], source, ctx) for chain in (*chains, *chains)]
    assert [[r.cached for r in records] for _, records in runs] == [[False], [False, False], [True], [True, True]]
    digests = [made.digest for made, _ in runs]
    assert digests[0] != digests[1]
    assert digests[:2] == digests[2:]
    shares = [with_dropping(source, {0: share}, "attention") for share in (500, 700)]
    assert len({base_key(ExportOnnx(), model) for model in (source, *shares)}) == 3
