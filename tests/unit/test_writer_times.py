"""Times of models that write text: reading a prompt and writing a token are two tables, and a goal is of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from converter.artifact import TorchModel
from converter.errors import RecipeError
from converter.forecast import forecast_of
from converter.registry import stage_class
from converter.stage import Context, run_stage
from converter.structured.writer_kernels import WriterChain, WriterDimensions, WriterProducts
from converter.structured.writer_times import phase_tables, share_of_time
from converter.structured.writer_timing import PhaseTimer
from tests.writers import KINDS, context, loaded_once

LENGTHS = [12] * 5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TorchModel]:
    return loaded_once(KINDS, tmp_path_factory)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, whatever else runs beside this test."""
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("converter.structured.costs.CALM", 0.0)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a phase and a width decide: a prompt costs by neurons, a token by heads."""
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path / "cache"))

    def take(timer: PhaseTimer, _: Any) -> dict[str, Any]:
        (n_heads, n_neurons), reads = timer.widest, timer.reads
        a_head, a_neuron = (0.25, 0.125 * reads) if timer.phase == "prefill" else (1.0, 0.03)
        curves = {
            "heads": [(0, 0.0), (n_heads, a_head * n_heads)],
            "neurons": [(0, 0.0), (n_neurons, a_neuron * n_neurons)],
        }
        return {**curves, "fixed": 1.0 if timer.phase == "prefill" else 2.0, "output": 0.0, "cpu_share": 1.0}

    monkeypatch.setattr(PhaseTimer, "take", take)


def milliseconds(model: TorchModel, work: Path) -> dict[str, float]:
    widths = forecast_of(model).widths
    return {phase: table.total(widths) for phase, table in phase_tables(model, Context(work), LENGTHS).items()}


@pytest.mark.parametrize("kind", ["gpt2", "marian"])
def test_both_phases_are_timed_apart_and_once(
    kind: str, source: Callable[[str], TorchModel], alone: None, tmp_path: Path
) -> None:
    made = phase_tables(source(kind), Context(tmp_path), LENGTHS)
    assert made == phase_tables(source(kind), Context(tmp_path), LENGTHS), "to the last bit: not timed again"
    for table in made.values():
        *_, decoder = table.stacks
        assert table.fixed > 0
        assert 0 == decoder.of(0, 0) < decoder.of(1, 0) <= decoder.of(4, 0)
    if kind == "marian":
        (reads, keys), (idle, writes) = made["prefill"].stacks, made["decode"].stacks
        assert idle.of(4, 64) == 0 < writes.of(4, 64), "a token does not read the text again"
        assert keys.of(0, 64) == 0 < reads.of(0, 64), "nor does its reading write an answer"


@pytest.mark.parametrize("products", ["int8", "int4", "dynamic", "float"])
def test_a_sublayer_runs_at_every_length_and_behind_every_cache(products: WriterProducts) -> None:
    import numpy as np

    size = WriterDimensions(64, 32, ffn_blocks=2, embeddings=50, layers=2, key_dim=16, crosses=True)
    for behind, length in ((0, 7), (9, 1)):
        chain = WriterChain(size, products, behind)
        chain.bias_only()
        for width in (1, 3):
            chain.attention(width)
            chain.ffn(32 * width)
            chain.cross_keys(width)
        chain.output()
        session = onnxruntime.InferenceSession(chain.model(), providers=["CPUExecutionProvider"])
        (made,) = session.run(None, {"stream": np.ones((1, length, 64), np.float32)})
        assert made.shape == (1, length, 50)
        names = {node.op_type for node in chain.nodes}
        assert ("Concat" in names) == bool(behind), "only a cache is added to"
        wanted = {"dynamic": "MatMulIntegerToFloat", "float": "MatMul"}.get(products, "MatMulNBits")
        assert wanted in names


@pytest.mark.parametrize("kind", ["marian", "gpt2"])
def test_a_goal_is_met_by_the_phase_that_it_names(
    kind: str, source: Callable[[str], TorchModel], given: None, tmp_path: Path
) -> None:
    whole = source(kind)
    before, left = milliseconds(whole, tmp_path), {}
    options: dict[str, Any] = {"steps": 1, "round_to": 1, "scope": "layer", "reconstruct": True}
    for phase in ("prefill", "decode"):
        stage = stage_class("prune.structured")(speedup=1.3, phase=phase, **options)
        told = stage.forecast(forecast_of(whole), whole, context(whole, tmp_path)).parameters
        made, record = run_stage(stage, whole, context(whole, tmp_path))
        budget, after = record.facts["budget"], milliseconds(made, tmp_path)
        assert (budget["phase"], budget["unit"]) == (phase, "ms")
        assert budget["phases"].keys() == {"prefill", "decode"}, "what becomes of the other is told too"
        assert after[phase] <= before[phase] / 1.3 * 1.02
        assert budget["found"] == pytest.approx(after[phase], rel=0.01)
        assert told == pytest.approx(record.facts["parameters_after"], rel=0.05)
        left[phase] = record.facts["parameters_after"]
    assert left["prefill"] != left["decode"], "two tables, two answers"


def test_heads_that_stay_are_counted_and_what_cannot_be_reached_is_said(
    source: Callable[[str], TorchModel], given: None, tmp_path: Path
) -> None:
    whole = source("t5")
    stage = stage_class("prune.structured")(speedup=3.0, steps=1, round_to=1, scope="layer")
    made, record = run_stage(stage, whole, context(whole, tmp_path))
    assert [h for h, _ in forecast_of(made).widths] == [h for h, _ in forecast_of(whole).widths]
    assert "lowest that can be reached" in record.facts["budget_missed"]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_goal_that_is_reached_already_is_refused(
    phase: Any, source: Callable[[str], TorchModel], given: None, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=f"latency_ms=1000 has no effect: {phase} already takes"):
        share_of_time(source("llama"), Context(tmp_path), LENGTHS, phase, None, 1000.0)
