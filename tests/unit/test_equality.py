"""Nothing slips through the comparison of a float file with its model."""

import math

import numpy as np
import pytest

from converter.onnx.equality import Differences
from converter.scoring.relative_error import PART, in_parts, relative_error

PLAIN = np.array([[0.0, 2.0]], dtype=np.float32)


def test_errors_are_told_over_the_range_of_their_output() -> None:
    found = Differences()
    found.add("logits", 0, PLAIN, PLAIN + 0.5)
    found.add("logits", 1, PLAIN * 5, PLAIN * 5)
    assert found.worst() == ("logits", 0, 0.05)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["wanted", "found"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_number_that_is_none_is_never_hidden_by_the_others(
    broken: float, side: str, order: tuple[int, int]
) -> None:
    found = Differences()
    bad = np.array([[0.0, broken]], dtype=np.float32)
    sides = {"wanted": PLAIN, "found": PLAIN, side: bad}
    for number in order:
        pair = sides if number else {"wanted": PLAIN, "found": PLAIN}
        found.add(f"output {number}", 0, pair["wanted"], pair["found"])
        found.add("one for all", 0, pair["wanted"], pair["found"])
    assert math.isinf(found.worst()[2])


@pytest.mark.parametrize("shape", [(5, PART // 2 + 1), (1, 5, PART // 2 + 1)])
def test_what_is_compared_in_parts_is_compared_to_the_last_row(shape: tuple[int, ...]) -> None:
    wanted = np.zeros(shape, dtype=np.float32)
    assert len(in_parts(wanted, wanted)) == 3
    assert all(np.shares_memory(part, wanted) for part, _ in in_parts(wanted, wanted))
    for row, column in ((0, 0), (2, 7), (4, -1)):
        found = wanted.copy()
        found.reshape(5, -1)[row, column] = 3
        assert relative_error(found, wanted, 1.0) == 3
        found.reshape(5, -1)[row, column] = np.nan
        assert np.isnan(relative_error(found, wanted, 1.0))
        differences = Differences()
        differences.add("logits", 0, wanted, found)
        assert math.isinf(differences.worst()[2])


def test_another_shape_is_an_error_even_where_it_could_be_spread() -> None:
    found = Differences()
    found.add("logits", 0, np.zeros((4, 2), np.float32), np.zeros((1, 2), np.float32))
    assert math.isinf(found.worst()[2])


def test_an_error_is_told_over_the_range_and_what_cannot_be_compared_is_seen() -> None:
    wanted = np.array([0.0, 4.0], dtype=np.float32)
    assert relative_error(wanted + 1, wanted, 4.0) == 0.25
    assert relative_error(wanted[:1], wanted, 4.0) == float("inf")
    assert np.isnan(relative_error(wanted * np.float32("nan"), wanted, 4.0))
    # An output that does not vary: nothing is divided by zero, and the floor decides.
    flat = np.ones(2, dtype=np.float32)
    assert relative_error(flat, flat, 0.0) == 0.0
    assert relative_error(flat + 1, flat, 0.0, floor=2.0) == 0.5
