"""int8 products: rounded weights never saturate any kernel, and the graph computes what the numbers say."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.onnx.rewrites.integer_products import (
    MAX_PAIR,
    largest_pair_sum,
    quantize_products,
    round_weights,
    step_of,
)
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.runner import open_session
from converter.onnx.write import write_onnx


def saturating(given: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Emulate x86 without VNNI: neighbouring products are added in 16 bits, cut at the ends, then summed in 32."""
    if given.shape[1] % 2:
        given = np.pad(given, ((0, 0), (0, 1)))
        weights = np.pad(weights, ((0, 1), (0, 0)))
    products = given.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    pairs = products.reshape(len(given), -1, 2, weights.shape[1]).sum(axis=2)
    return np.clip(pairs, -32768, 32767).sum(axis=1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 33),
    spread=st.sampled_from(["normal", "equal", "outlier", "zero"]),
)
def test_bounded_weights_never_saturate(seed: int, rows: int, spread: str) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(rows, 5)).astype(np.float32)
    if spread == "equal":
        weight[:] = 0.7
    elif spread == "outlier":
        weight[0] *= 100
    elif spread == "zero":
        weight[:, 2] = 0
    values = round_weights(weight).values
    assert largest_pair_sum(values) <= MAX_PAIR
    given_u8 = random.integers(0, 256, (7, rows)).astype(np.uint8)
    given_u8[0] = 255
    exact = given_u8.astype(np.int32) @ values.astype(np.int32)
    assert np.array_equal(saturating(given_u8, values), exact)


def test_unbounded_weights_do_saturate() -> None:
    values = round_weights(np.full((4, 1), 0.5, dtype=np.float32), bounded=False).values
    given_u8 = np.full((1, 4), 255, dtype=np.uint8)
    assert largest_pair_sum(values) == 254
    assert not np.array_equal(saturating(given_u8, values), given_u8.astype(np.int32) @ values.astype(np.int32))


def test_rounded_weights_are_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    made = round_weights(weight)
    assert (np.abs(made.values * made.scales - weight) <= made.scales / 2 + 1e-7).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_zero_is_always_exact(low: float, high: float) -> None:
    scale, zero = step_of(low, high)
    assert scale > 0
    assert (np.float32(zero) - zero) * scale == 0
    assert (0 - float(zero)) * scale <= min(low, 0.0) + scale / 2 + 1e-6
    assert (255 - float(zero)) * scale >= max(high, 0.0) - scale / 2 - 1e-6


def _product(weight: np.ndarray, bias: np.ndarray | None) -> ir.Model:
    given = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", weight.shape[0]]))
    constants = [ir.Value(name="w", const_value=ir.tensor(weight, name="w"))]
    nodes = [ir.node("MatMul", [given, constants[0]], name="product")]
    nodes[0].outputs[0].name = "product"
    if bias is not None:
        constants.append(ir.Value(name="b", const_value=ir.tensor(bias, name="b")))
        nodes.append(ir.node("Add", [nodes[0].outputs[0], constants[1]], name="sum"))
    made = nodes[-1].outputs[0]
    made.name, made.type, made.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", weight.shape[1]])
    graph = ir.Graph([given], [made], nodes=nodes, initializers=constants, opset_imports={"": 18}, name="product")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("biased", [True, False])
def test_the_integer_product_is_what_its_numbers_say(biased: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weight = random.normal(size=(48, 40)).astype(np.float32)
    bias = random.normal(size=40).astype(np.float32) if biased else None
    given_x = random.normal(size=(9, 48)).astype(np.float32)
    low, high = float(given_x.min()), float(given_x.max())
    model = _product(weight, bias)
    quantize_products(model, list(quantizable(model)), {"x": (low, high)})
    write_onnx(model, tmp_path / "made.onnx")
    found = open_session(tmp_path / "made.onnx").run(["y"], {"x": given_x})[0]
    scale, zero = step_of(low, high)
    rounded = np.clip(np.rint(given_x / scale) + zero, 0, 255) - float(zero)
    made = round_weights(weight)
    wanted = (rounded @ made.values.astype(np.float64)) * scale * made.scales + (0 if bias is None else bias)
    assert np.allclose(found, wanted, atol=1e-4)
    assert np.abs(found - (given_x @ weight + (0 if bias is None else bias))).max() < 0.5


def test_a_dynamic_product_measures_its_own_range(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    weight = random.normal(size=(48, 40)).astype(np.float32)
    given_x = (5 * random.normal(size=(9, 48))).astype(np.float32)
    model = _product(weight, None)
    quantize_products(model, list(quantizable(model)), None)
    write_onnx(model, tmp_path / "made.onnx")
    found = open_session(tmp_path / "made.onnx").run(["y"], {"x": given_x})[0]
    scale, zero = step_of(float(given_x.min()), float(given_x.max()))
    rounded = np.clip(np.rint(given_x / scale) + zero, 0, 255) - float(zero)
    made = round_weights(weight)
    wanted = (rounded @ made.values.astype(np.float64)) * scale * made.scales
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
