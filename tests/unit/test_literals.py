"""Cells that hold lists and tables: what pandas and numpy write is read, what may be read in two ways is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.data.literals import parse_literal

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_what_python_prints_comes_back(value: Any) -> None:
    assert parse_literal(repr(value)) == value


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30))
def test_an_array_that_numpy_prints_comes_back_with_commas_and_without(words: list[str]) -> None:
    array = np.array(words, dtype=object)
    assert parse_literal(repr(array)) == words
    with np.printoptions(threshold=10**6):
        assert parse_literal(str(array)) == words


def test_numbers_of_numpy_are_numbers() -> None:
    assert parse_literal(str(np.array([3, 0, -7]))) == [3, 0, -7]
    assert parse_literal("{'text': array(['1903'], dtype=object), 'answer_start': array([19], dtype=int32)}") == {
        "text": ["1903"],
        "answer_start": [19],
    }
    assert parse_literal("[np.int64(5), np.str_('a')]") == [5, "a"]


@pytest.mark.parametrize(
    "cell",
    [
        "['a', 'b' 'c']",  # Python would join the last two
        "{'a': array([1, 2, ..., 9])}",  # numpy left something out
        "[open('x')]",
        "__import__('os').system('true')",
        "{**{}}",
        "['a'",
        "[" * 5000,
    ],
)
def test_what_is_not_plain_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match=r"plain value|literal|side by side"):
        parse_literal(cell)
