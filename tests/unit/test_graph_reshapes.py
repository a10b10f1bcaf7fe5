"""Reshapes that a graph does without: it computes the same, with fewer operators."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from converter.onnx.rewrites.gemms import gemms_as_products
from converter.onnx.rewrites.reshapes import constant_shapes, products_of_rows
from converter.onnx.rewrites.shared_heads import ask_shared_heads
from converter.onnx.rewrites.tied_tables import share_transposed_tables

FLATTENED = """
<ir_version: 10, opset_import: ["": 18]>
layer (float[batch, length, 6] x) => (float[batch, length, 2, 4] y)
<int64[2] flat = {-1, 6}, int64[1] heads = {2}, int64[1] size = {4}, int64[1] width = {8}>
{
    b = Shape<start=0, end=1>(x)
    n = Shape<start=1, end=2>(x)
    rows = Reshape(x, flat)
    product = MatMul(rows, weight)
    total = Add(product, bias)
    unfold_shape = Concat<axis=0>(b, n, width)
    unfolded = Reshape<allowzero=1>(total, unfold_shape)
    positive = Relu(unfolded)
    split_shape = Concat<axis=0>(b, n, heads, size)
    y = Reshape<allowzero=1>(positive, split_shape)
}
"""
SHAPES = {
    "rows": ["batch*length", 6],
    "product": ["batch*length", 8],
    "total": ["batch*length", 8],
    "unfolded": ["batch", "length", 8],
    "positive": ["batch", "length", 8],
}
"""As an exporter leaves them."""


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"weight": random.normal(size=(6, 8)).astype(np.float32), "bias": random.normal(size=8).astype(np.float32)}


def made(text: str, arrays: dict[str, np.ndarray], shapes: dict[str, list[Any]]) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    model = ir.from_proto(proto)
    for value in (v for n in model.graph for v in n.outputs):
        if value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])
    return model


def answer(model: ir.Model, **feed: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feed)[0]


def kinds(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("shape", [(2, 3, 6), (1, 1, 6), (2, 0, 6)], ids=str)
def test_rows_are_multiplied_without_being_flattened(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    model = made(FLATTENED, weights(), SHAPES)
    before = answer(model, x=x) if x.size else np.zeros((2, 0, 2, 4), dtype=np.float32)
    assert products_of_rows(model) == 1
    assert constant_shapes(model) == 3
    RemoveUnusedNodesPass()(model)
    assert kinds(model) == ["MatMul", "Add", "Relu", "Reshape"]
    assert np.array_equal(answer(model, x=x), before)


def test_rows_that_something_else_reads_flat_stay_flat() -> None:
    text = FLATTENED.replace("y)\n<", "y, float[rows, 8] z)\n<").replace(
        "    positive =", "    z = Relu(total)\n    positive ="
    )
    model = made(text, weights(), SHAPES)
    assert products_of_rows(model) == 0


def test_a_shape_of_two_unknown_sizes_is_still_worked_out() -> None:
    model = made(FLATTENED, weights(), SHAPES | {"unfolded": ["rows", "columns", 8]})
    reshape = next(n for n in model.graph if n.outputs[0].name == "unfolded")
    constant_shapes(model)
    assert reshape.inputs[1].name == "unfold_shape"


TIED = """
<ir_version: 10, opset_import: ["": 18]>
tied (int64[n] ids) => (float[n, 40] logits)
{
    rows = Gather(table, ids)
    logits = MatMul(rows, turned)
}
"""


def test_a_table_that_is_the_output_layer_too_is_kept_once() -> None:
    table = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    model = made(TIED, {"table": table, "turned": table.T.copy()}, {})
    ids = np.arange(5)
    before = answer(model, ids=ids)
    assert share_transposed_tables(model) == 1
    assert list(model.graph.initializers) == ["table"]
    assert np.array_equal(answer(model, ids=ids), before)


def test_an_output_layer_of_its_own_is_kept() -> None:
    table = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    other = table.T.copy()
    other[0, 0] += 1
    assert share_transposed_tables(made(TIED, {"table": table, "turned": other}, {})) == 0


SHARED = """
<ir_version: 10, opset_import: ["": 18]>
attention (float[batch, 4, length, 8] q, float[batch, 2, past, 8] k, float[batch, 2, past, 8] v)
    => (float[batch, 4, length, 8] y)
<int64[1] two = {2}, int64[5] wide = {1, 1, 2, 1, 1}, int64[4] heads = {0, 4, -1, 8}>
{
    k5 = Unsqueeze(k, two)
    k_wide = Expand(k5, wide)
    k_heads = Reshape(k_wide, heads)
    k_turned = Transpose<perm=[0, 1, 3, 2]>(k_heads)
    scores = MatMul(q, k_turned)
    weights = Softmax(scores)
    v5 = Unsqueeze(v, two)
    v_wide = Expand(v5, wide)
    v_heads = Reshape(v_wide, heads)
    mixed = MatMul(weights, v_heads)
    y = Relu(mixed)
}
"""
SHARED_SHAPES = {
    **{f"{x}_wide": ["batch", 2, 2, "past", 8] for x in "kv"},
    **{f"{x}_heads": ["batch", 4, "past", 8] for x in "kv"},
    "k_turned": ["batch", 4, 8, "past"],
    "scores": ["batch", 4, "length", "past"],
    "weights": ["batch", 4, "length", "past"],
    "mixed": ["batch", 4, "length", 8],
}


@pytest.mark.parametrize(("length", "past"), [(1, 7), (3, 3), (1, 1)])
def test_keys_that_heads_share_are_not_copied_for_each(length: int, past: int) -> None:
    random = np.random.default_rng(0)
    sizes = {"q": (2, 4, length, 8), "k": (2, 2, past, 8), "v": (2, 2, past, 8)}
    feed = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    model = made(SHARED, {}, SHARED_SHAPES)
    before = answer(model, **feed)
    assert ask_shared_heads(model) == 2
    RemoveUnusedNodesPass()(model)
    assert "Expand" not in kinds(model)
    assert np.allclose(answer(model, **feed), before, atol=1e-6)


def test_copied_keys_that_something_else_reads_are_kept() -> None:
    text = SHARED.replace("[batch, 4, length, 8] y)\n", "[batch, 4, length, 8] y, float[batch, 4, past, 8] z)\n")
    model = made(text.replace("    k_turned =", "    z = Relu(k_heads)\n    k_turned ="), {}, SHARED_SHAPES)
    assert ask_shared_heads(model) == 1, "the values alone"


@pytest.mark.parametrize("bias", [True, False], ids=["with bias", "without"])
def test_a_gemm_becomes_a_product_even_where_zeros_were_dropped(bias: bool) -> None:
    text = FLATTENED.replace("    product = MatMul(rows, weight)\n", "").replace(
        "total = Add(product, bias)", "total = Gemm(rows, weight, bias)" if bias else "total = Gemm(rows, weight)"
    )
    model = made(text, weights(), SHAPES)
    x = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    before = answer(model, x=x)
    assert gemms_as_products(model) == 1
    assert "Gemm" not in kinds(model)
    assert products_of_rows(model) == 1
    assert np.allclose(answer(model, x=x), before, atol=1e-6)
