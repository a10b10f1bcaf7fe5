"""What sublayers cost: the table that a budget of time is spent by."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest

from converter.artifact import TorchModel
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.quantize.static import StaticInt8
from converter.stage import SILENT, Context, Progress, run_stage
from converter.structured.costs import CostTable, latency_table, natural_lengths
from converter.structured.head_reads import reads_one_token
from converter.structured.kernels import Dimensions, Products
from converter.structured.order import Removal
from converter.structured.shrink import choose_shapes
from converter.structured.streams import Sublayer
from converter.structured.timing import _whole, plane
from tests.tiny import HEADS, HIDDEN, NEURONS, SENTENCES

DEAR = CostTable("ms", 1.0, ((0, 0.0), (2, 2.0)), ((0, 0.0), (10, 1.0)), {})
CHEAP = CostTable("ms", 1.0, ((0, 0.0), (2, 0.2)), ((0, 0.0), (10, 0.1)), {})
COUNTED = ("MatMulIntegerToFloat", "QuantizeLinear", "FusedMatMul", "Softmax", "Reshape", "Erf", "Transpose")
COUNTED_FLOAT = ("MatMul", "Softmax", "Split", "Transpose", "Erf")


def test_a_table_lies_on_lines_between_what_was_timed() -> None:
    table = CostTable("ms", 1.0, ((0, 0.5), (2, 1.5)), ((0, 0.0), (10, 1.0)), {})
    assert table.of("attention", 1) == 1.0
    assert table.total([(2, 10), (0, 5)]) == pytest.approx(1 + 1.5 + 1.0 + 0.5 + 0.5)
    assert table.times(3).total([(2, 10)]) == pytest.approx(1 + 3 * 2.5)
    assert natural_lengths([5] * 9 + [99]) == (5, 5, 5, 5, 5)


@pytest.mark.parametrize("products", ["static", "float"])
def test_times_grow_with_width_and_are_taken_once(
    products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setattr("converter.structured.costs.CALM", 0.0)  # whatever else runs beside this test
    shape = Dimensions(64, 16, ffn_blocks=2, embeddings=100, layers=2)
    first = latency_table(shape, products, (8, 512), (8, 64), SILENT)
    assert first.fixed > 0
    assert 0 <= first.of("attention", 0) < first.of("attention", 8)
    assert 0 <= first.of("ffn", 0) < first.of("ffn", 512)
    again = latency_table(shape, products, (8, 512), (8, 64), SILENT)
    assert again == first  # to the last bit: it was read, not timed again
    other = latency_table(shape, products, (8, 512), (8, 16), SILENT)
    assert other != first


def test_a_table_that_a_former_run_measured_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cache has, and whatever machine that was: a rebuilt package is pruned by the times of the first."""
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    known = {"fixed": 1.0, "heads": [(0, 0.0), (2, 1.0)], "neurons": [(0, 0.0), (8, 1.0)], "cpu_share": 0.99}
    monkeypatch.setattr("converter.structured.timing.time_sublayers", lambda *_: known)
    measured: dict[str, Any] = {}
    latency_table(Dimensions(64, 16), "float", (2, 8), (8,), SILENT, measured)
    (name,) = measured
    assert measured[name] == known
    monkeypatch.setattr("converter.structured.costs._machine", lambda: "another CPU")
    former = {name: {**known, "fixed": 7.0}}
    assert latency_table(Dimensions(64, 16), "float", (2, 8), (8,), SILENT, former).fixed == 7.0
    assert latency_table(Dimensions(64, 16), "float", (2, 8), (8,), SILENT).fixed == 1.0


def test_times_of_a_busy_machine_are_named_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    known = {"fixed": 1.0, "heads": [(0, 0.0), (2, 1.0)], "neurons": [(0, 0.0), (8, 1.0)], "cpu_share": 0.4}
    monkeypatch.setattr("converter.structured.timing.time_sublayers", lambda *_: known)
    said: list[str] = []
    watching = SimpleNamespace(note=said.append)
    table = latency_table(Dimensions(64, 16), "float", (2, 8), (8,), cast("Progress", watching))
    assert table.about["cpu_share"] == 0.4
    assert "busy machine (this process had 40% of a CPU)" in said[0]
    assert not list(tmp_path.rglob("*.json"))
    known["cpu_share"] = 0.99
    latency_table(Dimensions(64, 16), "float", (2, 8), (8,), cast("Progress", watching))
    assert len(said) == 1
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_one_token_costs_less_than_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path))
    table = latency_table(Dimensions(64, 16, layers=2, one_token=True), "static", (8, 512), (64,), SILENT)
    assert table.last is not None
    assert table.last.of("attention", 8) < table.of("attention", 8)
    assert table.last.of("ffn", 512) < 0.5 * table.of("ffn", 512)
    assert table.total([(8, 512), (8, 512)]) < 2 * (table.of("attention", 8) + table.of("ffn", 512)) + table.fixed


def test_a_plane_turns_sums_into_times() -> None:
    sums = [(1.0, 0.5), (2.0, 0.5), (2.0, 1.0), (4.0, 2.0)]
    fixed, slopes = plane(sums, [0.3 + 1.1 * a + 1.5 * b for a, b in sums])
    assert (fixed, *slopes) == pytest.approx((0.3, 1.1, 1.5))
    fixed, slopes = plane([(a, 0.0) for a, _ in sums], [0.3 + 1.1 * a for a, _ in sums])
    assert (fixed, slopes[0]) == pytest.approx((0.3, 1.1))
    # A plane that begins below nothing is noise: nothing is put right by it.
    assert plane([(1.0, 0.0), (2.0, 0.0)], [0.5, 2.0])[1] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("task", "alone"), [("text-classification", True), ("token-classification", False), ("feature-extraction", False)]
)
def test_what_the_head_reads_is_found(task: str, alone: bool, tiny: Callable[..., Path]) -> None:
    assert reads_one_token(load_source(str(tiny(task=task)))) is alone


def test_averages_read_every_token(tiny_sentence_transformer: Path) -> None:
    assert not reads_one_token(load_source(str(tiny_sentence_transformer)))


def _removals() -> dict[Sublayer, Removal]:
    """Two layers that lose the same by the same."""
    worthless = Removal((0, 1), np.array([0.0, 0.0, 0.0]))
    worthy = Removal(tuple(range(10)), np.arange(11.0))
    kinds = (("attention", worthless), ("ffn", worthy))
    return {Sublayer(layer, kind): removal for layer in (0, 1) for kind, removal in kinds}  # type: ignore[arg-type]


def test_last_layer_of_a_classifier_costs_less() -> None:
    """Within the same budget a unit of the last layer is ten times as cheap: all of them stay."""
    table = CostTable(DEAR.unit, DEAR.fixed, DEAR.heads, DEAR.neurons, {}, CHEAP)
    assert table.total([(2, 10), (2, 10)]) == pytest.approx(1 + 3.0 + 0.3)
    shapes, missed = choose_shapes(_removals(), table, 1 + 0.1 + 0.1 + 0.31, 1)
    assert not missed
    assert [len(s.neurons) for s in shapes] == [3, 10]


def test_last_layer_of_embeddings_is_a_layer_like_any() -> None:
    assert DEAR.total([(2, 10), (2, 10)]) == pytest.approx(1 + 2 * 3.0)
    shapes, missed = choose_shapes(_removals(), DEAR, 1 + 1.0 + 1.31, 1)
    assert not missed
    assert sum(len(s.neurons) for s in shapes) == 13


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.mark.parametrize("products", ["static", "float"])
def test_what_is_timed_has_the_operators_of_packages(products: Products, source: TorchModel, tmp_path: Path) -> None:
    ctx = Context(work=tmp_path, calibration=tuple(Example(s) for s in SENTENCES[:4]))
    made, _ = run_stage(ExportOnnx(), source, ctx)
    if products == "static":
        made, _ = run_stage(StaticInt8(max_noise=1e9, smooth=False), made, ctx)
    dimensions = Dimensions(HIDDEN, HIDDEN // HEADS, layers=3, one_token=reads_one_token(source))
    chain = onnx.load_from_string(_whole(dimensions, products, ((HEADS, NEURONS), (HEADS, NEURONS))).model())
    wanted, found = (Counter(n.op_type for n in m.graph.node) for m in (onnx.load(made.files[MODEL]), chain))
    counted = COUNTED if products == "static" else COUNTED_FLOAT
    assert {op: found[op] for op in counted} == {op: wanted[op] for op in counted}
