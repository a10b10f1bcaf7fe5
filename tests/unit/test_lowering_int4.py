"""Int4 for TFLite: bytes, scales, rounding, and which layers stay in 8 bits."""

from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator

from converter.onnx.quantize.rounding import round_blocks_by_moments
from converter.tflite.quantize.sensitivity import block_scales, most_sensitive, noise
from converter.tflite.quantize.smooth import Fitted
from converter.tflite.quantize.tables import _row_scales, packed_int4

LARGEST, BLOCK = 7, 8
RNG = np.random.default_rng(0)


def fitted(n_out: int = 6, n_in: int = 32, strength: float = 1.0) -> Fitted:
    rows = RNG.standard_normal((400, n_in)) * np.linspace(0.1, 2, n_in)
    mixed = (rows + rows[:, ::-1]).astype(np.float32)
    weights = RNG.standard_normal((n_out, n_in)).astype(np.float32) * strength
    return Fitted(weights, mixed.T @ mixed / len(mixed))


def lost(found: Fitted, made: np.ndarray) -> float:
    off = made - found.weights
    return float(((off @ found.moments) * off).sum())


def test_two_values_share_a_byte_and_the_first_lies_lower() -> None:
    values = np.array([[1, -2, 7, -7]], dtype=np.int8)
    made = packed_int4(values)
    low, high = (made & 0xF).astype(np.int8), (made >> 4).astype(np.int8)
    back = np.stack([low, high], axis=1).reshape(1, -1)
    assert np.array_equal(np.where(back > 7, back - 16, back), values)


def test_what_rounding_loses_the_next_weights_make_good() -> None:
    found = fitted()
    steps = block_scales(found, BLOCK, LARGEST)
    spread = np.repeat(steps, BLOCK, axis=1)
    plain = np.clip(np.rint(found.weights / spread), -LARGEST, LARGEST) * spread
    turns = round_blocks_by_moments(found.weights.T.copy(), found.moments, steps.T.copy(), LARGEST)
    assert np.abs(turns).max() <= LARGEST
    assert lost(found, turns.T * spread) < 0.7 * lost(found, plain)


def test_scales_that_clip_lose_less_than_those_that_reach_the_largest() -> None:
    found = fitted()
    found.weights[:, 3] *= 6
    reach = np.abs(found.weights.reshape(6, -1, BLOCK)).max(axis=2) / LARGEST
    errors = []
    for steps in (block_scales(found, BLOCK, LARGEST), reach):
        spread = np.repeat(steps, BLOCK, axis=1)
        plain = np.clip(np.rint(found.weights / spread), -LARGEST, LARGEST) * spread
        errors.append(float((np.square(plain - found.weights) * np.diag(found.moments)).sum()))
    assert errors[0] < errors[1]


def test_rows_in_8_bits_reach_their_largest_value_and_rows_in_4_bits_may_clip_it() -> None:
    rows = RNG.standard_normal((50, 384)).astype(np.float32)
    reach = np.abs(rows).max(axis=1)
    assert np.allclose(_row_scales(rows, 127), reach / 127)
    assert (_row_scales(rows, LARGEST) <= reach / LARGEST + 1e-9).all()
    assert (_row_scales(rows, LARGEST) < 0.95 * reach / LARGEST).mean() > 0.5


def model_of(layers: dict[str, Fitted]) -> SimpleNamespace:
    """Only what is read: a graph of one linear layer after the other."""
    tensors = [SimpleNamespace(name=f"serving_8/{n}{end}") for n in layers for end in ("/fitted", "/made")]
    code = SimpleNamespace(builtinCode=BuiltinOperator.FULLY_CONNECTED)
    operators = [SimpleNamespace(opcodeIndex=0, inputs=[0, 2 * i], outputs=[2 * i + 1]) for i in range(len(layers))]
    return SimpleNamespace(operatorCodes=[code], subgraphs=[SimpleNamespace(tensors=tensors, operators=operators)])


def kept(layers: dict[str, Fitted], share: float) -> list[str]:
    names = {f"serving_8/{n}/fitted": found for n, found in layers.items()}
    return most_sensitive(model_of(layers), names, share, BLOCK, LARGEST)


def test_layers_that_4_bits_disturb_most_stay_in_8() -> None:
    even, uneven = fitted(), fitted()
    uneven.weights[:, ::BLOCK] *= 40  # one weight of each block drowns the others
    assert noise(uneven, BLOCK, LARGEST) != pytest.approx(noise(even, BLOCK, LARGEST))
    layers = {"even": even, "uneven": uneven}
    worst = max(layers, key=lambda n: noise(layers[n], BLOCK, LARGEST))
    assert kept(layers, 0.5) == [f"serving_8/{worst}/made"]
    assert kept(layers, 0.4) == []


def test_a_layer_that_blocks_do_not_divide_stays_in_8_bits_whatever_the_share() -> None:
    assert kept({"whole": fitted(), "pruned": fitted(n_in=28)}, 0.0) == ["serving_8/pruned/made"]
