"""Beam search as transformers does it: the best beginnings go on, and finished texts compete by their scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.rules import Rule
from converter.generate.settings import GenerationSettings
from converter.generate.steps import Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW = np.float32(-1e9)
"""The score of what may not be chosen; a sum with it still tells the better of two."""

_DEPTH = 128
"""Scores whose best is taken at once when the best of a vocabulary are looked for: as many columns lie side by side."""


@dataclass
class _Pool:
    """Sequences `[batch, n, total]` with their scores `[batch, n]`; `ended` and `lengths` (new tokens) likewise."""

    sequences: "NDArray[np.int64]"
    scores: "NDArray[np.float32]"
    ended: "NDArray[np.bool_]"
    lengths: "NDArray[np.int64]"

    def pick(self, places: "NDArray[np.int64]") -> "_Pool":
        rows = np.arange(len(places))[:, None]
        parts = (self.sequences, self.scores, self.ended, self.lengths)
        return _Pool(*(part[rows, places] for part in parts))  # type: ignore[arg-type]

    def joined(self, other: "_Pool") -> "_Pool":
        pairs = [(getattr(self, n), getattr(other, n)) for n in ("sequences", "scores", "ended", "lengths")]
        return _Pool(*(np.concatenate(pair, axis=1) for pair in pairs))


def search_beams(
    steps: Steps,
    logits: "NDArray[np.float32]",
    prompt: "NDArray[np.int64]",
    total: int,
    settings: GenerationSettings,
    rules: list[Rule],
) -> "NDArray[np.int64]":
    """Return the best text of each row, int64 `[batch, length]`.

    `steps` has been fed `prompt` `[batch, length]` and gave `logits` `[batch, vocabulary]` for what follows it.
    """
    search = _Search(prompt, total, settings)
    steps.repeat(settings.beams)
    logits = np.repeat(logits, settings.beams, axis=0)
    scores = _Scores(*logits.shape)
    while True:
        scores.take(logits, rules, search.beginnings())
        rows = search.advance(scores)
        if search.over:
            return search.best()
        steps.reorder(rows)
        logits = steps.step(search.beginnings()[:, -1:])[:, -1]


class _Scores:
    """The next token's log probabilities `[rows, vocabulary]`, of which the best few are looked for.

    Each is `values - less`, subtracted only where that is looked at; the memory is one for all steps. Words are filled
    up to whole columns with what is never chosen.
    """

    def __init__(self, rows: int, words: int) -> None:
        self._words = words
        self._filled = np.full((rows, -(-words // _DEPTH) * _DEPTH), -np.inf, dtype=np.float32)
        self._values, self._powers = self._filled[:, :words], np.empty(words, dtype=np.float32)
        self._less = np.zeros(rows, dtype=np.float32)

    def take(self, logits: "NDArray[np.float32]", rules: list[Rule], beginnings: "NDArray[np.int64]") -> None:
        """Take a step's logits `[rows, vocabulary]`; `rules` change what they say of texts with these `beginnings`."""
        for row, given in enumerate(logits):
            # Row by row: one stays in a processor's cache from the first pass to the last.
            values = np.subtract(given, given.max(), out=self._values[row], dtype=np.float32)
            self._less[row] = np.log(np.exp(values, out=self._powers).sum())
        if rules:
            self._values -= self._less[:, None]
            self._less[:] = 0
            changed = self._values
            for rule in rules:
                changed = rule(beginnings, changed)
            self._values[:] = changed

    def best(
        self, raised: "NDArray[np.float32]", count: int
    ) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]":
        """Return beam, word and sum `[batch, count]` of the best sums with `raised` `[batch, beams]`, best first.

        Fewer where there are fewer words; of equals the first comes before the others.
        """
        batch, beams = raised.shape
        count = min(count, beams * self._words)
        made = [self._best_of(slice(i * beams, (i + 1) * beams), raised[i], count) for i in range(batch)]
        places, sums = (np.stack(part) for part in zip(*made, strict=True))
        width = self._filled.shape[1]
        return places // width, places % width, sums

    def _best_of(
        self, rows: slice, raised: "NDArray[np.float32]", count: int
    ) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
        """Look into the columns whose best is among the `count` best: so many words are at least as good as those."""
        width = self._filled.shape[1]
        columns = self._filled[rows].reshape(len(raised), _DEPTH, -1)
        less = self._less[rows]
        bests = ((columns.max(axis=1) - less[:, None]) + raised[:, None]).reshape(-1)
        least = np.float32(-np.inf)
        found = np.arange(len(bests))
        if len(bests) > count:
            least = np.partition(bests, len(bests) - count)[len(bests) - count]
            worth = np.flatnonzero(bests >= least)
            # What is not a number compares with nothing.
            found, least = (worth, least) if len(worth) >= count else (found, np.float32(np.nan))
        beams, starts = found // columns.shape[2], found % columns.shape[2]
        sums = (columns[beams, :, starts] - less[beams, None]) + raised[beams, None]
        places = (beams * width + starts)[:, None] + np.arange(_DEPTH) * columns.shape[2]
        kept = ~(sums < least) & (places % width < self._words)
        places, sums = places[kept], sums[kept]
        order = np.lexsort((places, -sums))[:count]
        return places[order], sums[order]


class _Search:
    """Beginnings that go on, and the best texts that have ended."""

    def __init__(self, prompt: "NDArray[np.int64]", total: int, settings: GenerationSettings) -> None:
        rows, self._length = prompt.shape
        self._prompt, self._total, self._limits = self._length, total, settings
        shape = (rows, settings.beams)
        begun = np.full((*shape, total), settings.fill_id, dtype=np.int64)
        begun[:, :, : self._length] = prompt[:, None]
        # All beams are the prompt as yet: only the first one's continuations count.
        scores = np.where(np.arange(settings.beams) == 0, np.float32(0), _LOW)[None].repeat(rows, axis=0)
        none, zero = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
        self._running = _Pool(begun, scores.astype(np.float32), none, zero)
        self._done = _Pool(begun.copy(), np.full(shape, _LOW, dtype=np.float32), none.copy(), zero.copy())
        self._may_improve = np.ones((rows, 1), dtype=bool)
        self.over = False

    def beginnings(self) -> "NDArray[np.int64]":
        """Return the sequences that go on, `[batch * beams, length]`."""
        return self._running.sequences[:, :, : self._length].reshape(-1, self._length)

    def best(self) -> "NDArray[np.int64]":
        length = self._prompt + int(self._done.lengths[:, 0].max())
        return self._done.sequences[:, 0, :length]

    def advance(self, scores: _Scores) -> "NDArray[np.int64]":
        """Take the next token's scores, of `batch * beams` rows; returns the rows that go on."""
        beams, eos = self._limits.beams, self._limits.eos_ids
        batch = len(self._running.scores)
        # So many that at least `beams` of them go on, should all the others end here.
        candidates, parents = self._candidates(scores, beams * max(2, 1 + len(eos)))
        self._length += 1
        tokens = candidates.sequences[:, :, self._length - 1]
        candidates.ended = (tokens[..., None] == np.array(eos, dtype=np.int64)).any(axis=-1)
        candidates.ended |= self._length >= self._total
        going = np.where(candidates.ended, candidates.scores + _LOW, candidates.scores)
        order = _top(going, beams)
        self._running = candidates.pick(order)
        self._running.scores = np.take_along_axis(going, order, axis=1)
        self._finish(candidates)
        self._judge(bool(candidates.ended.all()))
        rows = np.take_along_axis(parents, order, axis=1) + np.arange(batch)[:, None] * beams
        return rows.reshape(-1)

    def _candidates(self, scores: _Scores, count: int) -> "tuple[_Pool, NDArray[np.int64]]":
        parents, words, sums = scores.best(self._running.scores, count)
        made = self._running.pick(parents)
        made.sequences[:, :, self._length] = words
        made.scores = sums
        made.lengths = made.lengths + 1
        return made, parents

    def _finish(self, candidates: _Pool) -> None:
        """Let texts that have just ended compete with those that ended before."""
        settings = self._limits
        ended = candidates.ended & (np.arange(candidates.ended.shape[1]) < settings.beams)
        length = np.float32((self._length - self._prompt) ** settings.length_penalty)
        full = self._done.ended.all(axis=1, keepdims=True) & (settings.early_stopping is True)
        scores = candidates.scores / length
        for barred in (full, ~self._may_improve, ~ended):
            scores = scores + barred * _LOW
        both = self._done.joined(_Pool(candidates.sequences, scores.astype(np.float32), ended, candidates.lengths))
        self._done = both.pick(_top(both.scores, settings.beams))

    def _judge(self, all_ended: bool) -> None:  # noqa: FBT001 - one fact of the step
        """Tell whether going on can change anything."""
        settings = self._limits
        longest = self._total if settings.early_stopping == "never" and settings.length_penalty > 0 else self._length
        best = self._running.scores[:, :1] / np.float32((longest - self._prompt) ** settings.length_penalty)
        worst = np.where(self._done.ended, self._done.scores.min(axis=1, keepdims=True), _LOW)
        self._may_improve &= (best > worst).any(axis=1, keepdims=True)
        closed = self._done.ended.all() and settings.early_stopping is True
        self.over = bool(not self._may_improve.any() or closed or all_ended)


def _top(scores: "NDArray[np.float32]", count: int) -> "NDArray[np.int64]":
    """Return the places of the `count` best along the last axis, best first, the first of equals before the others."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]
