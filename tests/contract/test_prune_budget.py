"""Pruning to a budget, and the fit of what is left, on tiny models of several families."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.binding import bind
from converter.errors import DataError, RecipeError
from converter.examples import Example
from converter.forecast import forecast_of
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.shape_map import LayerShape
from converter.prune.structured import StructuredPruning
from converter.registry import stage_class, target_class
from converter.stage import run_stage
from converter.structured.budget import time_table
from converter.structured.importance import gather_evidence
from converter.structured.input_correction import readers_of
from converter.structured.streams import Stream, Sublayer, TeacherSums, head_of
from converter.surgery.resize import family_of, resized, shape_map_of
from converter.target import Aim
from tests.pruning import PLAIN, answers, context, units
from tests.tiny import FAMILIES, SENTENCES, TASKS


def weights(model: TorchModel) -> dict[str, Any]:
    return {n: t.numpy().copy() for n, t in model.module.state_dict().items()}


def megabytes(model: TorchModel, share_of_units: float) -> float:
    """Return the size of `model` with this share of its heads and neurons, at a byte a parameter."""
    parts = family_of(model).layers(model.module)
    inside = sum(
        4 * p.attention_output.weight.numel() + (p.ffn_input.weight.numel() + p.ffn_output.weight.numel())
        for p in parts
    )
    total = sum(t.numel() for t in {t.data_ptr(): t for t in model.module.parameters()}.values())
    return (total - (1 - share_of_units) * inside) / 1e6


@pytest.fixture
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_to_a_size(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny(family)))
    before = weights(source)
    wanted = megabytes(source, 0.5)
    made, record = run_stage(StructuredPruning(size_mb=wanted, steps=1), source, context(tmp_path))
    found = record.facts["budget"]["found"]
    assert found <= wanted + 5e-5  # the fact is rounded to four places
    assert found > 0.85 * wanted
    assert made.size_bytes < source.size_bytes
    assert any(h for h, _ in units(made))
    assert all((weights(source)[n] == v).all() for n, v in before.items())
    assert not list(tmp_path.glob("sums/*"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_fitted_without_labels(task: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    texts = PLAIN if task != "question-answering" else tuple(Example("who?", pair=t) for t in SENTENCES)
    source = load_source(str(tiny("distilbert", task)))
    ctx = context(tmp_path, texts)
    drift = []
    for fit in (True, False):
        made, record = run_stage(StructuredPruning(0.5, 0.5, steps=1, reconstruct=fit), source, ctx)
        assert record.facts["loss"] == "answers"
        drift.append(np.mean([np.abs(answers(made)[n] - v).mean() for n, v in answers(source).items()]))
    assert drift[0] < 0.95 * drift[1], drift


def test_a_plan_makes_the_same_model_again_to_the_last_bit(source: TorchModel, tmp_path: Path) -> None:
    ctx = context(tmp_path, tuple(Example(t, label=i % 3) for i, t in enumerate(SENTENCES)))
    for stage in (StructuredPruning(size_mb=megabytes(source, 0.4), steps=2), StructuredPruning(0.5, 0.5, steps=2)):
        made, _ = run_stage(stage, source, ctx)
        folder = tmp_path / f"saved-{stage.size_mb}"
        save_model(made, folder)
        again, record = run_stage(StructuredPruning(plan=str(folder / "shape_map.json")), source, ctx)
        assert again.shape_map == made.shape_map
        assert all((weights(again)[n] == v).all() for n, v in weights(made).items())
        assert [p["neurons_kept"] for p in record.facts["plan"]] == [n for _, n in units(made)]
    other, _ = run_stage(StructuredPruning(plan=str(folder)), source, context(tmp_path, PLAIN[: len(PLAIN) // 2]))
    assert any((weights(other)[n] != v).any() for n, v in weights(made).items())


def test_a_faster_model_is_faster_by_its_table(
    source: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    made, record = run_stage(StructuredPruning(speedup=1.1, steps=1), source, context(tmp_path))
    budget = record.facts["budget"]
    assert budget["unit"] == "ms"
    assert budget["speedup"] >= 1.099
    assert budget["found"] <= budget["wanted"] < budget["source"]
    assert "static products" in budget["timed_with"]
    assert budget["last_layer_of_one_token"]
    for target, said in (("cpu-int8", None), ("tflite", "tflite")):
        ctx = replace(context(tmp_path), aim=Aim(target, target_class(target).menu()["static"]))
        assert time_table(source, ctx).about.get("stands_in_for") == said
    assert made.size_bytes < source.size_bytes


def test_one_table_tells_a_forecast_a_trial_and_a_run_whatever_text_they_learn_from(
    source: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each is aimed by times of its own, taken beside whatever runs by then. It is taken alone, once."""
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    taken: list[str] = []

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        taken.append("begun")
        yield
        taken.append("ended")

    ctx = replace(context(tmp_path), alone=alone)
    few, many = StructuredPruning(speedup=1.1, steps=1, texts=8), StructuredPruning(speedup=1.1, steps=1)
    many.forecast(forecast_of(source), source, ctx)
    for stage in (few, many):
        run_stage(stage, source, ctx)
    assert taken == ["begun", "ended"]
    assert len(ctx.measured) == 1


def test_a_budget_that_cannot_be_met_keeps_the_least_and_says_so(source: TorchModel, tmp_path: Path) -> None:
    made, record = run_stage(StructuredPruning(size_mb=0.001, steps=1), source, context(tmp_path))
    assert sum(h for h, _ in units(made)) == 1
    assert sum(n for _, n in units(made)) == 0
    assert "0.001 was requested" in record.facts["budget_missed"]
    met, record = run_stage(StructuredPruning(size_mb=megabytes(source, 0.5), steps=1), source, context(tmp_path))
    assert "budget_missed" not in record.facts
    assert units(met) != units(made)


def test_what_an_idle_sublayer_does_is_not_missed(source: TorchModel, tmp_path: Path) -> None:
    """The layer whose heads and neurons say nothing is emptied first, and nothing changes."""
    import torch

    idle = resized(source, shape_map_of(source).layers)
    with torch.no_grad():
        part = family_of(idle).layers(idle.module)[1]
        part.attention_output.weight.zero_()
        part.ffn_output.weight.zero_()
    made, _ = run_stage(StructuredPruning(size_mb=megabytes(source, 2 / 3), steps=1), idle, context(tmp_path))
    assert units(made)[1] == (0, 0)
    for name, value in answers(idle).items():
        np.testing.assert_allclose(answers(made)[name], value, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "deberta-v2"])
def test_what_is_seen_does_not_depend_on_padding(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = load_source(str(tiny(family)))
    ctx = context(tmp_path, PLAIN[:6])
    evidence = gather_evidence(model, ctx, n_texts=6, max_length=64, loss="answers", score="taylor")
    encodings = [e for batch in evidence.batches for _, e in batch]
    together, alone = Stream(model, [encodings]), Stream(model, [[e] for e in encodings])
    last = len(together.parts) - 1
    sublayers = [Sublayer(last, "attention"), Sublayer(last, "ffn")]
    for layer in range(last):
        together.finish(layer)
        alone.finish(layer)
    one = together.watch(0, sublayers)
    each = [alone.watch(i, sublayers) for i in range(len(encodings))]
    for sublayer in sublayers:
        for i, seen in enumerate(one[sublayer]):
            wanted = np.concatenate([e[sublayer][i].total.numpy() for e in each])
            np.testing.assert_allclose(seen.total.numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert"])
def test_a_finished_layer_answers_as_it_ran(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = load_source(str(tiny(family)))
    encodings = [[model.task.encode(model.tokenizer, e, 64) for e in PLAIN[:4]]]
    whole, stepped = Stream(model, encodings), Stream(model, encodings)
    sums = TeacherSums(tmp_path / "sums")
    sums.take(whole, lambda: None)
    for layer in range(len(stepped.parts)):
        for kind in ("attention", "ffn"):
            for i, seen in enumerate(stepped.watch(0, [Sublayer(layer, kind)])[Sublayer(layer, kind)]):  # type: ignore[arg-type]
                assert (seen.total == sums.of(0, Sublayer(layer, kind), i)).all()  # type: ignore[arg-type]
        stepped.finish(layer)
    assert (answers(model)["logits"] == answers(model)["logits"]).all()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"speedup": 2, "latency_ms": 1}, "speedup or latency_ms, not both"),
        ({"size_mb": 2, "plan": "x"}, "not both"),
        ({"speedup": 2, "heads": 0.5}, "cannot be given too"),
        ({"speedup": 2, "reconstruct": False}, "cannot be combined"),
        ({"speedup": 1}, "at least 1.01"),
        ({"speedup": "inf"}, "finite"),
        ({"latency_ms": 0}, "at least"),
        ({"size_mb": -1}, "at least"),
        ({"ffn": 1.0}, "between 0.0 and 0.95"),
    ],
)
def test_budgets_that_make_no_sense_are_refused_before_work(table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        bind(stage_class("prune.structured"), table, "compress[0]")


def test_what_asks_for_nothing_or_stands_on_nothing_is_refused(source: TorchModel, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(RecipeError, match="has no effect"):
        StructuredPruning(size_mb=50).run(source, ctx)
    with pytest.raises(DataError, match="needs at least 128"):
        StructuredPruning(0.5, 0.5).run(source, context(tmp_path, PLAIN[:1]))
    with pytest.raises(RecipeError, match="there is no shape_map"):
        StructuredPruning(plan=str(tmp_path)).run(source, ctx)
    shape_map_of(source).save(tmp_path)
    with pytest.raises(RecipeError, match="removes nothing"):
        StructuredPruning(plan=str(tmp_path)).run(source, ctx)
    cut = resized(source, [LayerShape((0,), (0, 1))] * 3)
    with pytest.raises(RecipeError, match="belongs to another model"):
        StructuredPruning(plan=str(tmp_path)).run(cut, ctx)


def test_an_empty_sublayer_can_be_pruned_and_zeroed_again(source: TorchModel, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    bare = resized(source, [LayerShape((0, 1), (0, 1, 2)), LayerShape((), tuple(range(64))), LayerShape((1,), ())])
    made, _ = run_stage(stage_class("prune.threshold")(), bare, ctx)
    assert units(made) == units(bare)
    again, _ = run_stage(StructuredPruning(size_mb=megabytes(bare, 0.5), steps=1), made, ctx)
    assert units(again)[1][0] == units(again)[2][1] == 0
    save_model(again, tmp_path / "saved")
    assert all((weights(load_source(str(tmp_path / "saved")))[n] == v).all() for n, v in weights(again).items())


@pytest.mark.parametrize(
    ("task", "rows"), [("text-classification", 6), ("token-classification", None), ("feature-extraction", 0)]
)
def test_the_head_reads_what_its_task_reads(task: str, rows: int | None, tiny: Callable[..., Path]) -> None:
    """One token of each text, or all of them; nothing behind embeddings can be put right."""
    model = load_source(str(tiny("distilbert", task)))
    stream = Stream(model, [[model.task.encode(model.tokenizer, e, 64) for e in PLAIN[:6]]])
    head = head_of(stream)
    if head is None:
        assert rows == 0
        return
    n_tokens = int(stream.feeds[0]["attention_mask"].sum())
    before = stream.read_by(0, head)
    assert len(before) == (n_tokens if rows is None else rows)
    for layer in range(len(stream.parts)):
        stream.finish(layer)
    assert (stream.read_by(0, head) == before).all()


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "deberta-v2"])
def test_reading_put_right_brings_answers_nearer(
    family: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(tiny(family)))
    drift = []
    for readers in (readers_of, lambda _: None):
        monkeypatch.setattr("converter.structured.shrink.readers_of", readers)
        made, _ = run_stage(StructuredPruning(0.5, 0.5, steps=1), source, context(tmp_path))
        drift.append(float(np.abs(answers(made)["logits"] - answers(source)["logits"]).mean()))
    assert drift[0] < drift[1], drift
