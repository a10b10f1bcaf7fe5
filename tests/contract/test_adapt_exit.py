"""Texts that leave early: where, how sure, and that no text's answer depends on another's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.adapt._heads import Seen, least_texts, set_thresholds
from converter.adapt.exit import EarlyExit
from converter.artifact import TorchModel
from converter.binding import bind
from converter.errors import RecipeError, SourceError, UsageError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.exits import EarlyExits, confidence, exits_of
from converter.model_folder.load import load_source
from converter.model_folder.replacements import put_empty
from converter.model_folder.save import save_model
from converter.onnx.branches import write_branches
from converter.onnx.export import ExportOnnx
from converter.onnx.read import read_onnx
from converter.onnx.runner import OnnxRunner
from converter.onnx.weights import product_weights
from converter.quantize.static import StaticInt8
from converter.recipe import bind_recipe
from converter.reference import feed_of, torch_run
from converter.registry import stage_class, target_class
from converter.stage import Context, Outcome, check_stage, run_stage, run_stages
from converter.stage_cache.identity import base_key
from tests.tiny import SENTENCES

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


def texts(n: int = 250) -> tuple[Example, ...]:
    draw = np.random.default_rng(0)
    return tuple(Example(" ".join(draw.choice(WORDS, draw.integers(3, 9)))) for _ in range(n))


def context(tmp_path: Path, calibration: tuple[Example, ...]) -> Context:
    return Context(work=tmp_path, calibration=calibration)


STAGE = EarlyExit(layers=(0, 1), agreement=0.9, epochs=3)


@pytest.fixture(scope="module")
def leaving(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> tuple[TorchModel, Any]:
    """Return a model of two exits, at each of which some texts leave."""
    work = tmp_path_factory.mktemp("leaving")
    source = load_source(str(tiny()))
    outcome: Outcome[TorchModel] = STAGE.run(source, context(work, texts()))
    exits = exits_of(outcome.made.module)
    assert exits is not None
    # A drawn model is no good teacher: so that texts leave at each, whatever heads have learned.
    encodings = [source.task.encode(source.tokenizer, e, source.max_length) for e in texts()[:40]]
    with torch.no_grad():
        feed = {n: torch.from_numpy(v) for n, v in feed_of(source, encodings).items()}
        states = source.module(**feed, output_hidden_states=True)["hidden_states"]
        for i, layer in enumerate(exits.layers):
            sure = confidence(exits.heads[i](states[layer + 1][:, 0])).sort().values
            exits.thresholds[i] = (sure[26 - 12 * i] + sure[27 - 12 * i]) / 2
    return outcome.made, outcome.facts


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory, leaving: tuple[TorchModel, Any]) -> tuple[Path, Path]:
    """Return the flat graph, and that with branches."""
    work = tmp_path_factory.mktemp("branched")
    made, _ = run_stage(ExportOnnx(), leaving[0], context(work, ()))
    flat = made.weight_files[0]
    assert write_branches(flat, work / "branched.onnx") == 2
    return flat, work / "branched.onnx"


def answers(model: TorchModel, run: Any, batch: int) -> np.ndarray:
    encodings = [model.task.encode(model.tokenizer, e, model.max_length) for e in texts()[:40]]
    rows = [run(MODEL, feed_of(model, encodings[i : i + batch]))["logits"] for i in range(0, len(encodings), batch)]
    return np.concatenate(rows)


def leaves_at(model: TorchModel) -> set[int]:
    """Return the exits at which the texts leave; 2: none."""
    exits: Any = exits_of(model.module)
    before = exits.thresholds.clone()
    all_of_them = answers(model, torch_run(model), 40)
    found = []
    for closed in (torch.tensor([2.0, 2.0]), torch.tensor([float(before[0]), 2.0])):
        exits.thresholds.copy_(closed)
        found.append(answers(model, torch_run(model), 40))
    exits.thresholds.copy_(before)
    own, first = found
    at_first = (np.abs(first - own) > 1e-6).any(axis=1)
    at_second = (np.abs(all_of_them - first) > 1e-6).any(axis=1)
    return {0 if a else 1 if b else 2 for a, b in zip(at_first, at_second, strict=True)}


def test_a_texts_answer_does_not_depend_on_its_neighbours(leaving: tuple[TorchModel, Any]) -> None:
    model = leaving[0]
    assert leaves_at(model) == {0, 1, 2}
    alone, together = (answers(model, torch_run(model), n) for n in (1, 8))
    assert np.allclose(alone, together, atol=1e-5)


def test_a_branch_answers_as_the_flat_graph_alone_and_in_a_batch(
    leaving: tuple[TorchModel, Any], branched: tuple[Path, Path]
) -> None:
    model, runs = leaving[0], [OnnxRunner({MODEL: path}).run for path in branched]
    wanted = answers(model, torch_run(model), 1)
    for run in runs:
        for batch in (1, 8):
            assert np.allclose(answers(model, run, batch), wanted, atol=1e-4)


def test_the_layers_behind_an_exit_are_in_its_branch_alone(branched: tuple[Path, Path]) -> None:
    import onnx

    flat, made = (onnx.load(str(path)).graph for path in branched)
    products = [sum(n.op_type == "MatMul" for n in graph.node) for graph in (flat, made)]
    assert products[1] < products[0] / 2
    assert [n.op_type for n in made.node].count("If") == 1, "the second exit is behind the first"
    assert len(made.initializer) == len(flat.initializer)


def test_readers_of_weights_see_every_layer_of_a_branched_file(branched: tuple[Path, Path]) -> None:
    from converter.onnx.parameters import stored_parameters

    flat, made = ({(s.name, s.kind): s.values for s in stored_parameters(path)} for path in branched)
    assert flat.keys() == made.keys()
    assert all(np.array_equal(flat[key], made[key]) for key in flat)
    nodes = [sorted((n.op_type, *(o.name or "" for o in n.outputs)) for n in read_onnx(p).graph) for p in branched]
    assert nodes[0] == nodes[1]


def test_an_int8_file_branches_as_a_float_one(leaving: tuple[TorchModel, Any], tmp_path: Path) -> None:
    model = leaving[0]
    made, _ = run_stages([ExportOnnx(), StaticInt8(samples=8, max_noise=10)], model, context(tmp_path, texts()[:20]))
    (flat,) = made.weight_files
    assert write_branches(flat, tmp_path / "branched.onnx") == 2
    runs = [OnnxRunner({MODEL: path}).run for path in (flat, tmp_path / "branched.onnx")]
    for batch in (1, 8):
        assert np.allclose(*(answers(model, run, batch) for run in runs), atol=1e-5)
    weights = [list(product_weights(path)) for path in (flat, tmp_path / "branched.onnx")]
    assert len(weights[0]) == len(weights[1]) > 8


def test_an_answer_chosen_by_the_whole_batch_is_noticed(
    leaving: tuple[TorchModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_batch(self: EarlyExits, states: Any, logits: torch.Tensor) -> torch.Tensor:
        found = self.heads[0](states[self.layers[0] + 1][:, 0])
        return found if bool((confidence(found) >= self.thresholds[0]).all()) else logits

    monkeypatch.setattr(EarlyExits, "forward", of_batch)
    model = leaving[0]
    alone, together = (answers(model, torch_run(model), n) for n in (1, 8))
    assert not np.allclose(alone, together, atol=1e-5)


# --- thresholds -------------------------------------------------------------------------------------------------


def seen(n: int, wrong_below: float, seed: int) -> tuple[EarlyExits, Seen]:
    """Return texts of two classes whose one exit is sure by 0.5..1, and wrong wherever that is below a bound."""
    sure = torch.linspace(0.5, 0.999, n)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    score = torch.log(sure / (1 - sure))
    exits = EarlyExits((0,), 1, 2)

    class Head(torch.nn.Module):
        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return torch.cat([state, torch.zeros_like(state)], dim=1)

    exits.heads = torch.nn.ModuleList([Head()])
    right = (sure >= wrong_below).float()[:, None]
    return exits, Seen((score[:, None],), torch.cat([right, 1 - right], dim=1), (5,) * n)


def test_a_threshold_lets_leave_what_is_sure_and_holds_the_agreement() -> None:
    exits, held = seen(1000, 0.8, seed=1)
    judged = set_thresholds(exits, seen(1000, 0.8, seed=2)[1], held, 0.95)
    assert judged.agreement_low >= 0.95
    assert 0.35 < judged.leaves[0] < 0.45, "all that is right (0.4 of the texts), and a few that are wrong"


def test_a_head_that_is_wrong_wherever_it_is_sure_lets_no_more_leave_than_may_be_wrong() -> None:
    exits, held = seen(1000, 1.1, seed=1)
    judged = set_thresholds(exits, seen(1000, 1.1, seed=2)[1], held, 0.99)
    assert judged.leaves[0] == pytest.approx(1 - judged.agreement)
    assert judged.leaves[0] < 0.01
    assert judged.agreement_low >= 0.99


def test_so_few_texts_show_no_agreement_even_where_all_agree() -> None:
    assert least_texts(0.99, 1) == 299
    for n, leaves in ((298, False), (299, True)):
        exits, held = seen(n, 0.0, seed=1)
        judged = set_thresholds(exits, held, held, 0.99)
        assert (judged.leaves[0] > 0) == leaves


# --- the stage --------------------------------------------------------------------------------------------------


def test_the_record_says_what_leaves_and_what_is_left_at_worst(leaving: tuple[TorchModel, Any]) -> None:
    _, facts = leaving
    if facts["exits"]:
        assert facts["products_left"] < facts["products_left_at_worst"]
        assert facts["products_left_at_worst"] > 1
        assert facts["agreement_at_least"] >= 0.9


def test_too_little_text_leaves_the_model_as_it_was_and_says_so(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny()))
    made, record = run_stage(EarlyExit(agreement=0.99), source, context(tmp_path, texts(50)))
    assert made is source
    assert "299 that all agree are needed" in record.facts["left_as_it_was"]


def test_exits_open_again_with_their_thresholds(leaving: tuple[TorchModel, Any], tmp_path: Path) -> None:
    model = leaving[0]
    save_model(model, tmp_path / "saved")
    again = load_source(str(tmp_path / "saved"))
    assert np.array_equal(*(answers(m, torch_run(m), 8) for m in (model, again)))


def test_tflite_refuses_exits_by_name(leaving: tuple[TorchModel, Any]) -> None:
    with pytest.raises(UsageError, match="leaving early would save nothing"):
        target_class("tflite")().stages("none", {}, leaving[0])


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"layers": [2, 1]}, "ascending"),
        ({"layers": [1], "depth": 0.3}, "not both"),
        ({"agreement": 1}, "between 0.5 and 0.9999"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        bind(EarlyExit, options, "compress[0]")


def test_what_cannot_leave_early_is_refused_by_name(tiny: Callable[..., Path], tmp_path: Path) -> None:
    for model, wrong in (
        (tiny("bert", "question-answering"), "a model for question-answering"),
        (tiny("bert", num_labels=1), "of this kind"),
        (tiny("albert"), "albert is not known to leave early"),
    ):
        with pytest.raises(UsageError, match=wrong):
            EarlyExit().check(load_source(str(model)), has_text=True)
    source = load_source(str(tiny()))
    with pytest.raises(UsageError, match="no text that heads could learn from"):
        EarlyExit().check(source, has_text=False)
    with pytest.raises(UsageError, match="no text that heads could learn from"):
        EarlyExit().run(source, replace(context(tmp_path, texts(20)), calibration_is_builtin=True))
    with pytest.raises(RecipeError, match="an exit stands between layers"):
        EarlyExit(layers=(2,)).run(source, context(tmp_path, texts(20)))
    with pytest.raises(RecipeError, match=r"cannot come after adapt\.exit"):
        bind_recipe({"compress": [{"stage": "adapt.exit"}, {"stage": "distill.soft"}]})


def test_texts_that_left_elsewhere_do_not_count_as_noise_and_noise_everywhere_does() -> None:
    from converter.onnx.quantize.fallback import _share, _without_jumps

    wanted = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    jumped = wanted.copy()
    jumped[:4] *= -1
    assert _share(wanted, jumped) > 0.05 > _share(*_without_jumps(wanted, jumped))
    noisy = wanted + np.random.default_rng(1).standard_normal((40, 2)).astype(np.float32)
    assert _share(*_without_jumps(wanted, noisy)) > 0.05


@pytest.mark.parametrize("later", ["prune.tokens", "distill.soft", "trim.vocabulary", "share.codebook"])
def test_what_cannot_come_behind_in_a_recipe_cannot_in_a_later_run(leaving: tuple[TorchModel, Any], later: str) -> None:
    stage = bind(stage_class(later), {}, "compress[0]")
    with pytest.raises(UsageError, match=rf"made with adapt\.exit .*: {later} cannot come after that"):
        check_stage(stage, leaving[0], has_text=True)


def test_exits_behind_other_layers_are_another_model(tiny: Callable[..., Path]) -> None:
    """Their weights may be the same, and no weight tells which states they read."""
    source, found = load_source(str(tiny("bert", layers=4))), [load_source(str(tiny("bert", layers=4)))]
    for layer in (0, 1):
        model = load_source(str(tiny("bert", layers=4)))
        torch.manual_seed(0)
        model.module.add_module("exits", EarlyExits((layer,), model.config.hidden_size, 3).eval())
        found.append(model)
    assert found[0].digest == source.digest
    assert len({model.digest for model in found}) == 3
    assert len({base_key(ExportOnnx(), model) for model in found}) == 3


@pytest.mark.parametrize(
    "damage",
    [
        {"layers": [1, 0]},
        {"layers": [0, 0]},
        {"layers": [0.9, 1]},
        {"layers": [False, True]},
        {"layers": "01"},
        {"layers": {"0": 1}},
        {"layers": []},
        {"layers": [0, 9]},
        {"width": 31.5},
        {"width": 1},
        {"classes": "3"},
        {"classes": 9},
    ],
)
def test_a_damaged_list_of_exits_is_refused_by_name(leaving: tuple[TorchModel, Any], damage: dict[str, Any]) -> None:
    exits: Any = exits_of(leaving[0].module)
    module = torch.nn.Module()
    module.config = leaving[0].config  # type: ignore[assignment]
    put_empty(module, {"exits": exits.spec()}, "folder")
    with pytest.raises(SourceError, match="the replacement of exits is damaged") as caught:
        put_empty(module, {"exits": exits.spec() | damage}, "folder")
    assert caught.value.exit_code == 4
