"""The gains of normalizations beside those of the model: nearly alike, so that an exchange moves answers little.

A file has them as they are, or with the factors of smoothing, which the rows of the weights behind them take back
(SmoothQuant, arXiv 2211.10438).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.validate.vectors import LEAST, Lost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.weights_match import Block

EXACT = 1e-3
"""Spread of the ratios, in the logarithm, where the float file has a gain as it is: only such are looked for."""
ROOM, ERRORS = 0.02, 3.0
"""Spread that is never a fault, and what is added to it: times the standard error of the factors of rows."""
SAMPLE, TRIED = 32, 8
"""Numbers of a gain by which the likeliest explanations are chosen, and how many of those are tried."""
SAME_SIGN = 0.9
_NORMAL = 1.4826
"""Of a normal distribution: the standard deviation over the median distance from the median."""


def lost_gains(
    gains: "Mapping[str, NDArray[np.float32]]",
    shipped: "Sequence[NDArray[np.float32]]",
    blocks: "Sequence[Block]",
    before: "Sequence[NDArray[np.float32]]",
) -> Iterator[Lost]:
    """Yield the gains of the source that the float file `before` has, and the shipped vectors have not.

    `blocks` are the matrices of the shipped file, whose factors of rows may take back what a gain was divided by.
    """
    for name, gain in gains.items():
        if len(gain) < LEAST or _spread(gain[None])[0] <= ROOM:
            continue
        ratios = [v / base for base in (gain, 1 + gain) if (base != 0).all() for v in before if len(v) == len(gain)]
        if not ratios or _spread(np.stack(ratios)).min() > EXACT:
            continue
        off = _nearest(
            gain, [v for v in shipped if len(v) == len(gain)], [b for b in blocks if len(b.rows) == len(gain)]
        )
        if off > 1:
            yield Lost(f"the gain {name}", f"the nearest differs in its numbers by {off:.2g} times what is allowed")


def _nearest(gain: "NDArray[np.float32]", shipped: "Sequence[NDArray[np.float32]]", blocks: "Sequence[Block]") -> float:
    """Return the spread of what explains a gain best, over what is allowed for it."""
    best = float("inf")
    factors = np.stack([np.ones_like(gain), *(b.rows for b in blocks)])
    errors = [0.0, *(float(np.median(b.spread / np.maximum(np.abs(b.rows), 1e-12))) for b in blocks)]
    rooms = np.array([ROOM + ERRORS * e for e in errors])
    some = np.linspace(0, len(gain) - 1, min(SAMPLE, len(gain))).astype(int)
    for base in (gain, 1 + gain):
        if not shipped or not (base != 0).all():
            continue
        ratios = np.stack(shipped) / base
        plain = _spread(ratios) / ROOM
        best = min(best, float(plain.min()))
        if best <= 1:
            return best
        likely = _spread((ratios[:, None, some] * factors[None, :, some]).reshape(-1, len(some)))
        for place in np.argsort(likely, kind="stable")[:TRIED]:
            at, row = divmod(int(place), len(factors))
            best = min(best, float(_spread((ratios[at] * factors[row])[None])[0] / rooms[row]))
    return best


def _spread(ratios: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Return how far the numbers of each row are from being alike, in the logarithm; infinite where signs differ."""
    logs = np.log(np.maximum(np.abs(ratios.astype(np.float64)), 1e-30))
    spread = _NORMAL * np.median(np.abs(logs - np.median(logs, axis=1, keepdims=True)), axis=1)
    same = np.maximum((ratios > 0).mean(axis=1), (ratios < 0).mean(axis=1))
    return np.asarray(np.where(same >= SAME_SIGN, spread, np.inf))
