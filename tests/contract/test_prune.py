"""What the pruning stages hold, on tiny models of several families."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.binding import bind
from converter.errors import DataError, RecipeError, SourceError, StageFailed
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.shape_map import LayerShape
from converter.prune.layers import LayerDropping
from converter.prune.mixed import MixedPruning
from converter.prune.structured import StructuredPruning
from converter.prune.threshold import ThresholdPruning, encoder_linears
from converter.reference import feed_of
from converter.registry import stage_class
from converter.stage import Context, run_stage
from converter.structured.importance import gather_evidence, measure_importance
from converter.surgery.resize import family_of, resized, shape_map_of
from tests.pruning import PLAIN, answers, context, units
from tests.tiny import FAMILIES, SENTENCES, TASKS

LABELLED = tuple(Example(t, label=i % 3) for i, t in enumerate(SENTENCES))


def scores(model: TorchModel, ctx: Context, **options: Any) -> list[np.ndarray]:
    options = {"n_texts": 99, "max_length": 64, "loss": "auto", "score": "taylor"} | options
    found = measure_importance(model, model, gather_evidence(model, ctx, **options), _Ticks())
    return [a for s in found for a in (s.heads, s.neurons)]


class _Ticks:
    def advance(self, steps: float = 1) -> None:
        """Nothing is shown."""

    def describe(self, text: str) -> None:
        """Nothing is shown."""


@pytest.fixture
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.mark.parametrize("family", FAMILIES)
def test_structured_pruning_makes_every_family_smaller(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny(family)))
    before, weights = answers(source), {n: t.clone() for n, t in source.module.state_dict().items()}
    made, record = run_stage(StructuredPruning(0.5, 0.5, steps=2), source, context(tmp_path))
    now = units(made)
    assert sum(h for h, _ in now) == sum(h for h, _ in units(source)) // 2
    assert sum(n for _, n in now) == sum(n for _, n in units(source)) // 2
    assert all(h >= 1 and n >= 16 and n % 16 == 0 for h, n in now)
    assert record.size_bytes_made < record.size_bytes_given
    assert record.facts["parameters_after"] < record.facts["parameters_before"]
    assert [len(p["heads_kept"]) for p in record.facts["plan"]] == [h for h, _ in now]
    assert {n: t.tolist() for n, t in source.module.state_dict().items()} == {n: t.tolist() for n, t in weights.items()}
    assert all(p.requires_grad and p.grad is None for p in source.module.parameters())
    assert all((answers(source)[n] == before[n]).all() for n in before)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_scored_without_labels(task: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    texts = PLAIN if task != "question-answering" else tuple(Example("who?", pair=t) for t in SENTENCES)
    source = load_source(str(tiny("distilbert", task)))
    found = scores(source, context(tmp_path, texts))
    assert all((s > 0).all() for s in found)
    made, _ = run_stage(StructuredPruning(0.25, 0.25, steps=1), source, context(tmp_path, texts))
    assert made.size_bytes < source.size_bytes


def test_similarity_scores_do_not_pass_for_labels_of_one_text(tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = load_source(str(tiny("bert", "feature-extraction")))
    pairs = tuple(Example(t, label=0.5, group=str(i // 2)) for i, t in enumerate(SENTENCES[:8]))
    outcome = StructuredPruning(steps=1).run(model, context(tmp_path, pairs))
    assert outcome.facts["loss"] == "answers"
    with pytest.raises(DataError, match="loss=labels"):
        StructuredPruning(steps=1, loss="labels").run(model, context(tmp_path, pairs))


def test_a_gate_gradient_is_the_effect_of_closing_the_gate(source: TorchModel, tmp_path: Path) -> None:
    """To first order: a gate closed by a little changes the loss by so much."""
    ctx = context(tmp_path, LABELLED[:1])
    found = scores(source, ctx)
    part = family_of(source).layers(source.module)[0]
    encoding = source.task.encode(source.tokenizer, LABELLED[0], 64)

    def loss(scale: float, head: int) -> float:
        gate = torch.ones(part.n_heads, part.head_dim)
        gate[head] = scale
        hook = part.attention_output.register_forward_pre_hook(lambda _, a: (a[0] * gate.reshape(-1),))
        feed = {n: torch.from_numpy(r) for n, r in feed_of(source, [encoding]).items()}
        value = source.task.hard_loss(source.graphs()[MODEL](**feed), [(LABELLED[0], encoding)])
        hook.remove()
        assert value is not None
        return float(value.detach().double())

    for head in range(part.n_heads):
        slope = (loss(1.01, head) - loss(0.99, head)) / 0.02
        assert abs(slope) == pytest.approx(found[0][head], rel=0.02, abs=1e-4)


def test_padding_and_neighbours_do_not_count(source: TorchModel, tmp_path: Path) -> None:
    short, long = LABELLED[0], Example(" ".join(SENTENCES[:3]), label=1)
    alone = [scores(source, context(tmp_path, (e,))) for e in (short, long)]
    together = scores(source, context(tmp_path, (short, long)))
    for both, a, b in zip(together, *alone, strict=True):
        np.testing.assert_allclose(both, (a + b) / 2, rtol=1e-4, atol=1e-7)


def test_an_idle_head_goes_first(source: TorchModel, tmp_path: Path) -> None:
    made = resized(source, shape_map_of(source).layers)
    idle = {0: 2, 2: 1}
    with torch.no_grad():
        for layer, head in idle.items():
            part = family_of(made).layers(made.module)[layer]
            part.attention_output.weight[:, head * part.head_dim : (head + 1) * part.head_dim] = 0
    pruned, _ = run_stage(StructuredPruning(2 / 12, 0.0, steps=1), made, context(tmp_path))
    assert pruned.shape_map is not None
    gone = {i: set(range(4)) - set(s.heads) for i, s in enumerate(pruned.shape_map.layers)}
    assert gone == {0: {2}, 1: set(), 2: {1}}
    for name, value in answers(made).items():
        np.testing.assert_allclose(answers(pruned)[name], value, atol=1e-5)


def test_importance_beats_its_opposite(source: TorchModel, tmp_path: Path) -> None:
    """Removing what matters least moves the answers less than removing what matters most."""
    found = scores(source, context(tmp_path))
    drift = []
    for sign in (1, -1):
        keep = []
        for heads, neurons in zip(found[::2], found[1::2], strict=True):
            best = np.argsort(-sign * neurons)[:32]
            strong = np.argsort(-sign * heads)[:3]
            keep.append(LayerShape(tuple(sorted(strong.tolist())), tuple(sorted(best.tolist()))))
        made = resized(source, keep)
        drift.append(np.mean([np.abs(answers(made)[n] - v).mean() for n, v in answers(source).items()]))
    assert drift[0] < drift[1] * 0.7, drift


def test_layers_are_cut_alike_with_scope_layer_and_unlike_globally(source: TorchModel, tmp_path: Path) -> None:
    alike, _ = run_stage(StructuredPruning(0.5, 0.5, scope="layer", steps=1), source, context(tmp_path))
    assert units(alike) == [(2, 32)] * 3
    unlike, _ = run_stage(StructuredPruning(0.5, 0.5, steps=1), source, context(tmp_path))
    assert len({n for _, n in units(unlike)}) > 1
    assert unlike.size_bytes == alike.size_bytes


def test_the_same_seed_prunes_the_same(source: TorchModel, tmp_path: Path) -> None:
    first, second, other = (
        run_stage(StructuredPruning(0.5, 0.5, texts=8), source, context(tmp_path, seed=seed))[0].shape_map
        for seed in (1, 1, 2)
    )
    assert first == second != other


def test_pruning_twice_speaks_of_the_original(source: TorchModel, tmp_path: Path) -> None:
    stage = StructuredPruning(0.25, 0.25, reconstruct=False)
    once, _ = run_stage(stage, source, context(tmp_path))
    twice, _ = run_stage(stage, once, context(tmp_path))
    assert once.shape_map is not None
    assert twice.shape_map is not None
    for a, b in zip(once.shape_map.layers, twice.shape_map.layers, strict=True):
        assert set(b.heads) <= set(a.heads)
        assert set(b.neurons) <= set(a.neurons)
    found, wanted = answers(resized(source, twice.shape_map.layers)), answers(twice)
    assert all((found[n] == wanted[n]).all() for n in wanted)


@pytest.mark.parametrize("scope", ["layer", "global", "row"])
@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_threshold_reaches_its_sparsity_and_loads_again(
    source: TorchModel, tmp_path: Path, scope: str, score: str
) -> None:
    stage = bind(ThresholdPruning, {"sparsity": 0.6, "scope": scope, "score": score, "steps": 3}, "test")
    made, record = run_stage(stage, source, context(tmp_path))
    assert record.facts["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert 0 < record.facts["archive_ratio"] < 0.85
    assert "neither faster nor smaller" in record.facts["note"]
    assert record.size_bytes_made == record.size_bytes_given
    assert all((m.weight != 0).all() for m in encoder_linears(source).values())
    spread = set(record.facts["sparsity_of_matrices"].values())
    assert (max(spread) - min(spread) > 0.02) == (scope == "global")
    save_model(made, tmp_path / "saved")
    loaded = load_source(str(tmp_path / "saved"))
    assert all((answers(loaded)[n] == v).all() for n, v in answers(made).items())


def test_magnitude_keeps_the_largest_weights(source: TorchModel, tmp_path: Path) -> None:
    made, _ = run_stage(ThresholdPruning(0.3), source, context(tmp_path))
    for name, linear in encoder_linears(made).items():
        was = encoder_linears(source)[name].weight.detach()
        gone = linear.weight == 0
        assert int(gone.sum()) == round(0.3 * was.numel())
        assert was[gone].abs().max() <= was[~gone].abs().min()
        assert (linear.weight[~gone] == was[~gone]).all()


def test_steps_change_activation_ranking_but_not_magnitude(source: TorchModel, tmp_path: Path) -> None:
    def zeros(score: str, steps: int) -> list[Any]:
        stage = bind(ThresholdPruning, {"score": score, "steps": steps}, "test")
        made, _ = run_stage(stage, source, context(tmp_path))
        return [(m.weight == 0).tolist() for m in encoder_linears(made).values()]

    assert zeros("magnitude", 1) == zeros("magnitude", 4)
    assert zeros("wanda", 1) != zeros("wanda", 4)


def test_mixed_is_smaller_and_sparse(source: TorchModel, tmp_path: Path) -> None:
    made, record = run_stage(MixedPruning(0.25, 0.5, 0.5, steps=1), source, context(tmp_path))
    assert sum(n for _, n in units(made)) == 96
    assert record.facts["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert record.facts["plan"]


@pytest.mark.parametrize("choose", ["even", "damage"])
def test_layers_are_dropped(source: TorchModel, tmp_path: Path, choose: str) -> None:
    stage = bind(LayerDropping, {"keep": 2, "choose": choose}, "test")
    made, record = run_stage(stage, source, context(tmp_path))
    assert len(units(made)) == 2 == len(record.facts["layers_kept"])
    if choose == "even":
        assert record.facts["layers_kept"] == [0, 2]


def test_damage_drops_the_layer_that_does_nothing(source: TorchModel, tmp_path: Path) -> None:
    made = resized(source, shape_map_of(source).layers)
    with torch.no_grad():
        layer = made.module.base_model.encoder.layer[0]  # type: ignore[union-attr]
        for dense in (layer.attention.output, layer.output):
            dense.dense.weight.zero_()
            dense.dense.bias.zero_()
    pruned, record = run_stage(LayerDropping(keep=2, choose="damage"), made, context(tmp_path))
    assert record.facts["layers_kept"] == [1, 2]
    assert pruned.shape_map is not None


def test_a_pruned_and_shallower_model_loads_again(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("modernbert")))
    made, _ = run_stage(StructuredPruning(0.5, 0.5, steps=1), source, context(tmp_path))
    made, _ = run_stage(LayerDropping(indices=(1, 2)), made, context(tmp_path))
    save_model(made, tmp_path / "saved")
    loaded = load_source(str(tmp_path / "saved"))
    assert all((answers(loaded)[n] == v).all() for n, v in answers(made).items())
    again, _ = run_stage(StructuredPruning(0.0, 0.5, steps=1), loaded, context(tmp_path))
    assert again.size_bytes < loaded.size_bytes


@pytest.mark.parametrize(
    ("name", "table", "says"),
    [
        ("prune.structured", {"heads": 1.5}, "between 0.0 and 0.95"),
        ("prune.structured", {"heads": -0.1}, "between 0.0 and 0.95"),
        ("prune.structured", {"heads": 0, "ffn": 0}, "nothing would be removed"),
        ("prune.structured", {"steps": 0}, "steps"),
        ("prune.structured", {"loss": "hard"}, "not a choice"),
        ("prune.threshold", {"sparsity": 1.0}, "between 0.01 and 0.99"),
        ("prune.layers", {"keep": 2, "indices": [0]}, "not both"),
        ("prune.layers", {"indices": [2, 0]}, "ascending"),
        ("prune.layers", {"indices": [0, 2], "choose": "damage"}, "choose has no effect"),
        ("prune.mixed", {"heads": 0, "ffn": 0}, "prune.threshold"),
    ],
)
def test_bad_options_are_refused_before_work(name: str, table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        bind(stage_class(name), table, "compress[0]")


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (StructuredPruning(0.01, 0.0), "removes nothing"),
        (LayerDropping(keep=3), "all 3 layers"),
        (LayerDropping(indices=(0, 3)), "no layer 3"),
    ],
)
def test_what_cannot_be_done_to_this_model_is_refused(
    source: TorchModel, tmp_path: Path, stage: Any, says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        stage.run(source, context(tmp_path))


def test_the_last_head_of_every_layer_stays(source: TorchModel, tmp_path: Path) -> None:
    bare = resized(source, [LayerShape((1,), tuple(range(64)))] * 3)
    with pytest.raises(RecipeError, match="leave a layer with none"):
        StructuredPruning(0.5, 0.5).run(bare, context(tmp_path))
    made, _ = run_stage(StructuredPruning(0.95, 0.95), source, context(tmp_path))
    assert units(made) == [(1, 16)] * 3


def test_pruning_without_text_is_refused(source: TorchModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        StructuredPruning().run(source, context(tmp_path, ()))
    with pytest.raises(DataError, match="no usable labels"):
        StructuredPruning(loss="labels").run(source, context(tmp_path, PLAIN))


def test_a_model_without_a_family_says_what_is_missing(source: TorchModel, tmp_path: Path) -> None:
    import copy

    module = copy.deepcopy(source.module)
    module.config.model_type = "camembert"  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="camembert cannot be pruned") as caught:
        StructuredPruning().run(replace(source, module=module), context(tmp_path))
    assert "it can be exported" in caught.value.hint


def test_a_shape_map_of_another_model_is_refused(source: TorchModel, tmp_path: Path) -> None:
    made = resized(source, [LayerShape((0,), (1, 2))] * 3)
    save_model(made, tmp_path / "saved")
    text = (tmp_path / "saved" / "shape_map.json").read_text()
    for damaged, says in (
        (text.replace('"layers_kept": [\n    0,', '"layers_kept": ['), "different models"),
        (text.replace("        1,\n        2", "        1,\n        99"), "does not have"),
        (text.replace("        1,\n        2", "        2,\n        1"), "ascending"),
    ):
        assert damaged != text
        (tmp_path / "saved" / "shape_map.json").write_text(damaged)
        with pytest.raises(SourceError) as caught:
            load_source(str(tmp_path / "saved"))
        assert says in str(caught.value) + caught.value.hint


def test_scores_that_are_not_finite_are_refused(source: TorchModel, tmp_path: Path) -> None:
    import copy

    module = copy.deepcopy(source.module)
    with torch.no_grad():
        module.base_model.encoder.layer[0].output.dense.weight[0, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(StageFailed, match="not finite"):
        StructuredPruning().run(replace(source, module=module), context(tmp_path))
