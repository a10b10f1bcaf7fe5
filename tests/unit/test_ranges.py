"""Ranges of activations, taken as a stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converter.quantize._ranges import BINS, RunningRange

VALUES = arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e4, 1e4, width=32))


def observed(*parts: np.ndarray) -> RunningRange:
    made = RunningRange()
    for part in parts:
        made.observe(part)
    return made


@given(st.lists(VALUES, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_every_method_stays_within_what_was_seen_and_holds_zero(parts: list[np.ndarray]) -> None:
    made = observed(*parts)
    low, high = min(0.0, *(float(p.min()) for p in parts)), max(0.0, *(float(p.max()) for p in parts))
    for method in ("minmax", "percentile", "mse"):
        a, b = made.choose(method)
        assert low - 1e-6 <= a <= 0 <= b <= high + 2e-6
        assert a < b


@given(st.lists(VALUES, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_histogram_loses_no_value_when_its_reach_grows(parts: list[np.ndarray]) -> None:
    made = observed(*parts)
    assert made._counts.sum() == sum(p.size for p in parts)
    assert len(made._counts) == BINS


def test_one_outlier_in_a_million_is_clipped_but_not_by_minmax() -> None:
    rng = np.random.default_rng(0)
    made = observed(*(rng.standard_normal(10_000).astype(np.float32) for _ in range(20)), np.array([500], np.float32))
    assert made.choose("minmax")[1] == 500
    assert made.choose("percentile")[1] < 10
    assert made.choose("mse")[1] < 500


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        observed(np.array([1, np.nan], np.float32))
