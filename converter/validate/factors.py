"""Whether what a matrix was multiplied by is taken back somewhere: a factor that nothing takes back is a fault.

Smoothing divides a channel of an activation and multiplies the row of the weights that reads it; attention's scale is
folded into the queries. So the factors of rows are all alike, or one over a vector of the file, over the change of a
normalization's gain, or over the factors of another matrix's columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.validate.weights_match import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOM = 0.25
"""What a factor may be off, in its logarithm, beside `SIGMAS` of its own standard error."""
SIGMAS = 8.0
AT_ONCE = 256
"""Vectors that are held against factors at once."""
SAMPLE = 16
"""Factors that are tried before all are."""
LEAST_BITS = 8
"""In fewer, with a scale a column, weights are clipped, so that factors cannot be told: there the errors of columns
alone are judged. A scale a block fits the few weights that share it."""


@dataclass(frozen=True)
class Stray:
    """A factor that nothing takes back."""

    block: Block
    side: str
    """`row` or `column`."""
    index: int
    factor: float
    """Over the median of its kind."""


def strays(
    blocks: Sequence[Block], vectors: "Sequence[NDArray[np.float32]]", gains: "Sequence[NDArray[np.float32]]"
) -> Iterator[Stray]:
    """Yield, for each matrix whose factors are not accounted for, the one that is furthest off.

    `vectors` are those of the file, `gains` the normalizations' of the source.
    """
    by_size: dict[int, list[NDArray[np.float32]]] = {}
    for vector in vectors:
        if np.isfinite(vector).all() and (vector != 0).all():
            by_size.setdefault(len(vector), []).append(vector)
    for size in {len(f) for block in blocks for f in (block.rows, block.columns)}:
        # What takes back the factors of rows of this size, and of columns.
        own = by_size.get(size, [])
        changed = _changes(own, [g for g in gains if len(g) == size])
        above = _stacked([*own, *changed, *(b.columns for b in blocks if len(b.columns) == size)], size)
        below = _stacked([b.rows for b in blocks if len(b.rows) == size], size)
        del changed  # of a large model there are thousands
        for block in blocks:
            if block.bits < LEAST_BITS and not block.shared:
                continue
            if len(block.rows) == size:
                yield from _stray(block, "row", block.rows, above, np.maximum(block.spread, block.coarse))
            if len(block.columns) == size:
                yield from _stray(block, "column", block.columns, below, np.zeros_like(block.columns))


def _stacked(vectors: "list[NDArray[np.float32]]", size: int) -> "NDArray[np.float32]":
    return np.stack(vectors) if vectors else np.ones((1, size), np.float32)


def _changes(
    found: "Sequence[NDArray[np.float32]]", gains: "Sequence[NDArray[np.float32]]"
) -> "list[NDArray[np.float32]]":
    """Return what gains of the source were multiplied by to become vectors of the file, should they be the same."""
    return [v / g for g in gains if (g != 0).all() for v in found]


def _stray(
    block: Block,
    side: str,
    factors: "NDArray[np.float32]",
    known: "NDArray[np.float32]",
    spread: "NDArray[np.float32]",
) -> Iterator[Stray]:
    # Weights of a row that are smaller than a step all round to zero: its factor is not known at all.
    places = np.flatnonzero(SIGMAS * spread < abs(float(np.median(factors)))) if len(factors) else np.arange(0)
    if not len(places):
        return
    factors, spread = factors[places], spread[places]
    room = np.asarray(ROOM + SIGMAS * spread / np.maximum(np.abs(factors), 1e-12), dtype=np.float32)
    off = _off(factors[None])[0] / room
    if off.max() <= 1:
        return
    likely = known[_likely(factors, known, places, room)][:, places]
    if (_off(factors * likely) / room <= 1).all(axis=1).any():
        return
    for start in range(0, len(known), AT_ONCE):
        others = _off(factors * known[start : start + AT_ONCE, places]) / room
        off = min(off, others[others.max(axis=1).argmin()], key=np.max)
    middle, place = float(np.median(factors)) or 1.0, int(off.argmax())
    yield Stray(block, side, int(places[place]), float(factors[place]) / middle)


def _likely(
    factors: "NDArray[np.float32]",
    known: "NDArray[np.float32]",
    places: "NDArray[np.int64]",
    room: "NDArray[np.float32]",
) -> "NDArray[np.bool_]":
    """Return which of `known` may take the factors back: a few products are of one sign, and within the room of any."""
    picked = np.linspace(0, len(factors) - 1, SAMPLE).astype(int)
    some = factors[picked] * known[:, places[picked]]
    logs = np.log(np.maximum(np.abs(some), 1e-30))
    same = (some > 0).all(axis=1) | (some < 0).all(axis=1)
    return np.asarray(same & (np.ptp(logs, axis=1) <= 2 * float(room[picked].max())))


def _off(products: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return how far each is from its row's median, in the logarithm; infinite where the sign is another."""
    middle = np.median(products, axis=1, keepdims=True)
    ratio = np.divide(products, middle, out=np.zeros_like(products), where=middle != 0)
    return np.asarray(np.where(ratio > 0, np.abs(np.log(np.maximum(ratio, 1e-30))), np.inf), dtype=np.float32)
