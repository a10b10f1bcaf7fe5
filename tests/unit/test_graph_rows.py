"""Rows that nobody reads are not computed, and products that are only split are separate ones."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.onnx.rewrites.rows import keep_read_rows
from converter.onnx.rewrites.splits import separate_products

WIDTH = 4
RANDOM = np.random.default_rng(0)


def _model(nodes: list[object], outputs: dict[str, list[object]], given: dict[str, object]) -> ir.Model:
    """Return a graph of `x` `[batch, length, 4]` with the constants `given`; the shapes of `outputs` are noted."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", WIDTH])],
        values[-1:],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in given.items()],
        value_info=values[:-1],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def _run(model: ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    return session.run(None, feed)[0]


def _chooses(index: int, axis: int = 1) -> ir.Model:
    whole: list[object] = ["batch", "length", WIDTH]
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "x"], ["total"]),
            helper.make_node("Tanh", ["total"], ["tanh"]),
            helper.make_node("Gather", ["tanh", "index"], ["y"], axis=axis),
        ],
        {"product": whole, "total": whole, "tanh": whole, "y": ["batch", WIDTH]},
        {"w": RANDOM.standard_normal((WIDTH, WIDTH)).astype(np.float32), "index": np.array(index)},
    )


@pytest.mark.parametrize("index", [0, 2])
def test_only_the_chosen_token_is_computed_whichever_it_is(index: int) -> None:
    x = RANDOM.standard_normal((3, 5, WIDTH)).astype(np.float32)
    model = _chooses(index)
    wanted = _run(model, {"x": x})
    assert keep_read_rows(model) == 3
    assert [n.op_type for n in model.graph][:2] == ["Slice", "MatMul"]
    np.testing.assert_allclose(_run(model, {"x": x}), wanted, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_choice_of_a_text_or_of_a_channel_moves_nothing(axis: int) -> None:
    model = _chooses(0, axis)
    assert keep_read_rows(model) == 0


def test_a_value_that_someone_reads_whole_is_computed_whole() -> None:
    model = _chooses(0)
    total = next(n for n in model.graph if n.op_type == "Add").outputs[0]
    model.graph.outputs.append(total)
    assert keep_read_rows(model) == 1  # Tanh alone


def _split_product(scales: int) -> ir.Model:
    sizes = np.array([2, 3, 1])
    inputs = ["q", "w", "s", "ws", "z", "", "b"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MatMulIntegerToFloat", inputs, ["m"], domain="com.microsoft"),
        helper.make_node("Split", ["m", "sizes"], ["a", "c", "d"], axis=-1),
        helper.make_node("Concat", ["d", "c", "a"], ["y"], axis=-1),
    ]
    given = {
        "w": RANDOM.integers(-127, 127, (WIDTH, 6)).astype(np.int8),
        "ws": RANDOM.random(scales).astype(np.float32),
        "b": RANDOM.standard_normal(6).astype(np.float32),
        "s": np.array(0.02, dtype=np.float32),
        "z": np.array(128, dtype=np.uint8),
        "sizes": sizes,
    }
    return _model(nodes, {"y": ["batch", "length", 6]}, given)


def test_separate_products_give_the_bits_of_their_split(tmp_path: Path) -> None:
    x = RANDOM.standard_normal((3, 5, WIDTH)).astype(np.float32)
    model = _split_product(6)
    wanted = _run(model, {"x": x})
    assert separate_products(model) == 1
    assert [n.op_type for n in model.graph].count("MatMulIntegerToFloat") == 3
    assert "w" not in model.graph.initializers
    np.testing.assert_array_equal(_run(model, {"x": x}), wanted)


def test_a_product_that_is_read_whole_too_stays_one() -> None:
    model = _split_product(6)
    whole = next(n for n in model.graph if n.op_type == "MatMulIntegerToFloat").outputs[0]
    model.graph.sort()
    extra = ir.node("Tanh", [whole])
    extra.outputs[0].name = "extra"
    model.graph.append(extra)
    assert separate_products(model) == 0
