"""Another answer is a tie where outputs are the source's but for rounding: forgiven where rare, and never elsewhere."""

import numpy as np

from converter.examples import Encoding, Example
from converter.precision import Limits
from converter.task import Judged
from converter.validate.ties import CLOSE, by_text, ties_of

FLOATS, WHOLE = Limits(max_error=0.03, agreement=0.99), Limits(agreement=0.97)


def test_a_rare_other_answer_with_equal_outputs_is_a_tie() -> None:
    same, errors = [1.0] * 98 + [0.0, 0.0], [CLOSE / 2] * 100
    assert ties_of(same, errors, FLOATS) == {98, 99}


def test_another_answer_with_other_outputs_is_none() -> None:
    assert ties_of([1.0] * 99 + [0.0], [0.0] * 99 + [CLOSE * 2], FLOATS) == frozenset()
    assert ties_of([1.0] * 99 + [0.0], [0.0] * 99 + [float("inf")], FLOATS) == frozenset()


def test_many_ties_are_a_fault() -> None:
    assert ties_of([1.0] * 96 + [0.0] * 4, [CLOSE / 2] * 100, FLOATS) == frozenset()


def test_where_outputs_have_no_limit_nothing_is_forgiven() -> None:
    assert ties_of([1.0] * 99 + [0.0], [0.0] * 100, WHOLE) == frozenset()


def test_float32_is_held_to_its_own_error() -> None:
    strict = Limits(max_error=1e-4, agreement=0.999)
    assert ties_of([1.0] * 99 + [0.0], [0.001] * 100, strict) == frozenset()
    assert ties_of([1.0] * 99 + [0.0], [0.00005] * 100, strict) == {99}


def test_a_text_is_as_far_off_as_its_worst_window() -> None:
    nothing = Encoding({"input_ids": np.zeros(1, np.int64)})
    examples = (Example("a", "x"), Example("a", "x", window=1), Example("b", "x"))
    judged = [Judged(e, nothing, {}) for e in examples]
    assert by_text(judged, [0.1, 0.4, 0.2]) == [0.4, 0.2]
