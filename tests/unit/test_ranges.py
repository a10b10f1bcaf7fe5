"""Ranges of activations: chosen by what the products that read them lose."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converter.onnx.quantize.errors import ProductInputs, round_rows
from converter.onnx.quantize.ranges import choose_range

ROWS = arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=st.floats(-1e4, 1e4, width=32))
WEIGHT = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)


def extremes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.min(axis=0), rows.max(axis=0)


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_every_method_stays_within_what_was_seen_and_holds_zero(rows: np.ndarray) -> None:
    low, high = min(0.0, float(rows.min())), max(0.0, float(rows.max()))
    for method in ("minmax", "percentile", "mse"):
        a, b = choose_range(method, extremes(rows), ProductInputs.of(rows, WEIGHT))
        assert low - 1e-3 <= a <= 0 <= b <= high + 1e-3
        assert a < b


def test_a_lone_outlier_that_no_product_reads_is_clipped_but_not_by_minmax() -> None:
    rows = np.random.default_rng(1).standard_normal((2000, 4)).astype(np.float32)
    rows[7, 3] = 60
    weight = WEIGHT.copy()
    weight[3] *= 1e-3
    inputs = ProductInputs.of(rows, weight)
    assert choose_range("minmax", extremes(rows), inputs)[1] == 60
    clipped = choose_range("mse", extremes(rows), inputs)[1]
    assert clipped < 30
    loud = choose_range(
        "mse", extremes(rows), ProductInputs.of(rows, WEIGHT * np.array([[1], [1], [1], [300]], np.float32))
    )
    assert loud[1] > clipped, "what the products do read is kept"


def test_a_finer_range_rounds_less_and_clips_more() -> None:
    rows = np.random.default_rng(2).standard_normal((500, 4)).astype(np.float32)
    fine, wide = round_rows(rows, -1, 1), round_rows(rows, -8, 8)
    inside = np.abs(rows) < 1
    assert np.abs(fine - rows)[inside].max() < np.abs(wide - rows)[inside].max()
    assert np.abs(fine - rows)[~inside].max() > np.abs(wide - rows)[~inside].max()
