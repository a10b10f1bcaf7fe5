"""The words that a beam search keeps are those of a stable sort of all sums over the whole vocabulary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.generate.beams import _DEPTH, _Scores

BEGINNINGS = np.zeros((1, 1), dtype=np.int64)


def sorted_sums(logits: np.ndarray, barred: np.ndarray, raised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all words of all beams, best first, and their sums."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    sums = (np.where(barred, np.float32(-np.inf), scores) + raised[:, None]).reshape(-1)
    order = np.argsort(-sums, kind="stable")
    return order, sums[order]


@settings(max_examples=60, deadline=None)
@given(
    words=st.integers(1, 40 * _DEPTH),
    count=st.integers(1, 24),
    levels=st.sampled_from((1, 3, 1000)),
    share=st.floats(0, 1),
    seed=st.integers(0, 1 << 30),
)
def test_the_best_words_are_those_of_a_stable_sort(
    words: int, count: int, levels: int, share: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.integers(0, levels, (4, words)).astype(np.float32)
    barred = draw.random(logits.shape) < share
    raised = draw.integers(-3, 1, (2, 2)).astype(np.float32)
    scores = _Scores(4, words)
    for bars in (np.zeros_like(barred), barred):
        rules = [lambda _, given, bars=bars: np.where(bars, np.float32(-np.inf), given)] if bars.any() else []
        scores.take(logits, rules, BEGINNINGS)
        beams, found, sums = scores.best(raised, count)
        for text in range(2):
            rows = slice(2 * text, 2 * text + 2)
            wanted, best = sorted_sums(logits[rows], bars[rows], raised[text])
            assert (beams[text] * words + found[text]).tolist() == wanted[:count].tolist()
            assert np.array_equal(sums[text], best[:count])


def test_scores_that_are_not_numbers_come_last() -> None:
    scores = _Scores(1, 40 * _DEPTH)

    def one_number(_: np.ndarray, given: np.ndarray) -> np.ndarray:
        given[:], given[0, 777] = np.nan, 1
        return given

    scores.take(np.zeros((1, 40 * _DEPTH), dtype=np.float32), [one_number], BEGINNINGS)
    assert scores.best(np.zeros((1, 1), dtype=np.float32), 3)[1][0].tolist() == [777, 0, 1]
