"""The places that a beam search keeps are those of a stable sort of the whole vocabulary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.generate.beams import _STRETCH, _top


@settings(max_examples=60, deadline=None)
@given(
    words=st.integers(1, 40 * _STRETCH),
    count=st.integers(1, 24),
    levels=st.sampled_from((1, 3, 1000)),
    barred=st.floats(0, 1),
    seed=st.integers(0, 1 << 30),
)
def test_the_best_places_are_those_of_a_stable_sort(
    words: int, count: int, levels: int, barred: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, levels, (2, words)).astype(np.float32)
    scores[draw.random(scores.shape) < barred] = -np.inf
    assert np.array_equal(_top(scores, count), np.argsort(-scores, axis=1, kind="stable")[:, :count])


def test_scores_that_are_not_numbers_come_last() -> None:
    scores = np.full((1, 40 * _STRETCH), np.nan, dtype=np.float32)
    scores[0, 777] = 1
    assert _top(scores, 3)[0].tolist() == [777, 0, 1]
