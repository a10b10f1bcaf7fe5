"""Biases and normalizations of a shipped file beside those of the float file that it was made of.

Quantizers leave them in float, corrected a little for what rounding costs; where a file reads them is up to its
rewrites, so each is looked for among all of that size, whole or as a part of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.stored import Stored

LEAST = 8
"""Numbers that a vector is recognized by."""
LIMIT = 0.7
"""What a vector may be off, over its length. A missing one is off by 1, another one by more; corrections of biases make
0.05, and factors that are folded into the biases of values up to 0.46."""
LEFT = 1e-2
"""The same, of a file whose precision leaves vectors as they were: small ones are often alike."""
FOLDED = 0.15
"""The same, of a vector that factors were folded into, which are known as well as rounded weights tell them."""
EQUAL, WRONG, MOST = 1e-3, 0.5, 0.8
"""Where `MOST` numbers of a vector are equal within `EQUAL` of its mean size, it was left as it is: none may be off by
`WRONG` of it. A correction changes them all."""


@dataclass(frozen=True)
class Lost:
    """A vector of the float file that the shipped one does not have, or not as it was."""

    name: str
    detail: str


def lost_vectors(
    shipped: "Sequence[NDArray[np.float32]]",
    before: "Sequence[Stored]",
    *,
    left_alone: bool = False,
    factors: "Sequence[NDArray[np.float32]]" = (),
) -> Iterator[Lost]:
    """Yield those of `before` that are not in `shipped`; what is zero or all alike is not looked for.

    `left_alone`: the precision changes no vector, but that one of `factors` may have been folded into it.
    """
    limit = LEFT if left_alone else LIMIT
    for one in before:
        found = list(_parts(one.values, shipped, limit))
        distances = [distance for distance, _, _ in found]
        if max(distances, default=0.0) > limit:
            if _off_folded(one.values, shipped, factors) <= FOLDED:
                continue
            yield Lost(one.name, f"the nearest is off by {max(distances):.2g} of its length, at most {limit:g} wanted")
            continue
        for _, part, nearest in found:
            size = float(np.sqrt(np.square(part).mean()))
            off = np.abs(nearest - part)
            wrong = np.flatnonzero(off > WRONG * size)
            if len(wrong) and (off <= EQUAL * size).mean() >= MOST:
                yield Lost(one.name, f"number {wrong[0]} is {nearest[wrong[0]]:.3g} instead of {part[wrong[0]]:.3g}")
                break


def _parts(
    values: "NDArray[np.float32]", shipped: "Sequence[NDArray[np.float32]]", limit: float
) -> "Iterator[tuple[float, NDArray[np.float32], NDArray[np.float32]]]":
    """Yield distance, part and what is nearest to it: of the whole, else of the parts that another file cut it into."""
    if not _telling(values):
        return
    whole = _nearest(values, shipped, limit)
    sizes = {len(u) for u in shipped if LEAST <= len(u) < len(values) and len(values) % len(u) == 0}
    tried = [[whole]]
    if whole[0] > limit:
        for size in sizes:
            cut = [values[i : i + size] for i in range(0, len(values), size)]
            tried.append([_nearest(part, shipped, limit) for part in cut if _telling(part)])
    yield from min((t for t in tried if t), key=lambda t: max(d for d, _, _ in t))


def _off_folded(
    values: "NDArray[np.float32]",
    shipped: "Sequence[NDArray[np.float32]]",
    factors: "Sequence[NDArray[np.float32]]",
) -> float:
    """Return how far `values` are, over their length, from the nearest vector times factors and any one number."""
    given, known = ([v for v in some if len(v) == len(values)] for some in (shipped, factors))
    if not given or not known:
        return float("inf")
    vectors, by = np.stack(given).astype(np.float64), np.stack(known).astype(np.float64)
    along = np.maximum(vectors @ (by * values).T, 0)
    lengths = np.sqrt(np.maximum(np.square(vectors) @ np.square(by).T, 1e-30)) * float(np.linalg.norm(values))
    return float(np.sqrt(np.maximum(1 - np.square(along / lengths), 0)).min())


def _telling(values: "NDArray[np.float32]") -> bool:
    return len(values) >= LEAST and float(np.ptp(values)) > 1e-6 * float(np.abs(values).max()) > 0


def _place_in(values: "NDArray[np.float32]", longer: "NDArray[np.float32]") -> int:
    """Return from where on a longer vector is nearest to `values`."""
    wide = longer.astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(np.square(wide))])
    n = len(values)
    return int((sums[n:] - sums[:-n] - 2 * np.correlate(wide, values.astype(np.float64), "valid")).argmin())


def _nearest(
    values: "NDArray[np.float32]", shipped: "Sequence[NDArray[np.float32]]", limit: float
) -> "tuple[float, NDArray[np.float32], NDArray[np.float32]]":
    """Return distance, values and what is nearest to them: a vector, or as many numbers of a longer one in a row."""
    n, length = len(values), float(np.linalg.norm(values))
    best, place = float("inf"), np.zeros_like(values)
    for other in shipped:
        if len(other) % n:
            continue
        rows = other.reshape(-1, n)
        distances = np.linalg.norm(rows - values, axis=1)
        at = int(distances.argmin())
        if distances[at] < best:
            best, place = float(distances[at]), rows[at]
    # Vectors of several widths in one: keys and values may be narrower than queries. At any place something is like
    # `values` by chance, if it need not be very like them.
    wider = [u for u in shipped if len(u) > n and (len(u) % n or limit <= LEFT)]
    for other in wider if best > limit * length else ():
        at = _place_in(values, other)
        distance = float(np.linalg.norm(other[at : at + n] - values))
        if distance < best:
            best, place = distance, other[at : at + n]
    return best / length, values, place
