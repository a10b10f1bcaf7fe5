"""Rounding by second moments, smoothing factors, and the tokens that both are fitted to."""

from pathlib import Path

import numpy as np
import pytest

from converter.forecast import MAX_ROWS
from converter.onnx.quantize.errors import ProductInputs
from converter.onnx.quantize.factors import search_factors
from converter.onnx.quantize.observed import Observed
from converter.onnx.quantize.rounding import round_by_moments
from converter.onnx.rewrites.integer_products import MAX_PAIR, IntegerWeights, largest_pair_sum, round_weights

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def lost(rows: np.ndarray, weight: np.ndarray, made: IntegerWeights) -> float:
    return float(np.square(rows @ (made.values * made.scales - weight)).sum())


def test_rounding_by_moments_loses_less_on_text_it_has_not_seen() -> None:
    mixing = floats(64, 64) * np.linspace(0.1, 2, 64, dtype=np.float32)[:, None]
    seen, unseen = floats(2000, 64) @ mixing, floats(500, 64) @ mixing
    weight = floats(64, 40)
    made = round_by_moments(weight, seen.T @ seen)
    assert lost(unseen, weight, made) < 0.8 * lost(unseen, weight, round_weights(weight))


@pytest.mark.parametrize("width", [64, 33])
def test_rounding_by_moments_keeps_the_bound_that_no_cpu_saturates(width: int) -> None:
    weight = np.full((width, 40), 0.7, dtype=np.float32) + 0.01 * floats(width, 40)
    rows = floats(300, width) + 1
    assert largest_pair_sum(round_by_moments(weight, rows.T @ rows).values) <= MAX_PAIR
    if width % 2 == 0:
        free = round_by_moments(weight, rows.T @ rows, bounded=False)
        assert largest_pair_sum(free.values) > MAX_PAIR


def test_channels_that_calibration_never_moved_are_rounded_plainly() -> None:
    rows = floats(300, 32)
    rows[:, ::2] = 0
    weight = floats(32, 40)
    made = round_by_moments(weight, rows.T @ rows)
    still = np.abs(made.values * made.scales - weight)[::2]
    assert (still <= made.scales * 0.51).all()


def test_factors_take_the_outlier_off_the_activation() -> None:
    rows = floats(400, 8)
    rows[:, 3] *= 30
    factors, ratio = search_factors(ProductInputs.of(rows, floats(8, 40)), bounded=True)
    assert factors.argmax() == 3
    assert ratio < 0.5


def test_even_activations_gain_little_from_factors() -> None:
    even = RNG.uniform(-1, 1, (400, 8)).astype(np.float32)
    _, ratio = search_factors(ProductInputs.of(even, floats(8, 40)), bounded=True)
    assert 0.7 < ratio <= 1


def test_dead_activations_are_left_alone() -> None:
    factors, ratio = search_factors(ProductInputs.of(np.zeros((20, 8), np.float32), floats(8, 40)), bounded=True)
    assert (factors == 1).all()
    assert ratio <= 1


def test_weights_of_a_channel_that_calibration_never_uses_do_not_round_to_zero() -> None:
    rows = np.maximum(floats(400, 64) - 1, 0) * np.geomspace(0.3, 1, 64, dtype=np.float32)
    rows[:, 7] = 0
    weight = floats(64, 40)
    factors, ratio = search_factors(ProductInputs.of(rows, weight), bounded=True)
    assert ratio < 0.9, "factors of other channels are worth it"
    made = round_weights(weight * factors[:, None], bounded=True)
    assert np.abs(made.values[7]).max() >= 2


def test_the_ends_of_every_text_and_the_extremes_of_all_are_kept(tmp_path: Path) -> None:
    texts = [{"x": floats(50, 4)} for _ in range(600)]
    texts[599]["x"][20, 2] = 77
    observed = Observed(tmp_path, ["x"], len(texts)).watch(texts)
    rows = observed.rows("x")
    assert len(rows) <= MAX_ROWS + 50
    np.testing.assert_allclose(rows[0], texts[0]["x"][0], rtol=1e-3)
    np.testing.assert_allclose(rows[11], texts[0]["x"][-1], rtol=1e-3)
    assert observed.extremes("x")[1][2] == 77
    assert len(observed.rows("x", 10)) == 10
    observed.remove()
    assert not list(tmp_path.iterdir())


def test_an_activation_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Observed(tmp_path, ["x"], 1).watch([{"x": np.array([[1, np.nan]], np.float32)}])


@pytest.mark.parametrize("bounded", [True, False])
def test_pruned_weights_take_over_no_error(bounded: bool) -> None:
    rows = floats(300, 32) @ floats(32, 32)
    weight = floats(32, 40)
    gone = RNG.random(weight.shape) < 0.5
    sparse, nearly = (np.where(gone, small, weight).astype(np.float32) for small in (0, 1e-7))
    made = round_by_moments(sparse, rows.T @ rows, bounded=bounded)
    assert (made.values[gone] == 0).all()
    assert (round_by_moments(nearly, rows.T @ rows, bounded=bounded).values[gone] != 0).any()
    assert lost(rows, sparse, made) < lost(rows, sparse, round_weights(sparse, bounded=bounded))
