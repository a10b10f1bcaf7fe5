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
LIKE, CERTAIN = 0.5, 4.0
"""Correlation, of logarithms, under which a vector is none that has the gain's numbers in their places; and how many of
its standard errors above that a true one's must be expected, for it to tell."""
ALONG, UNSURE = 0.5, 0.12
"""Slope of fitted factors of rows on what a gain was divided by, should it have been: 1 then, else 0. And the standard
error of it from which nothing is said."""
_NORMAL = 1.4826
"""Of a normal distribution: the standard deviation over the median distance from the median."""


def lost_gains(
    gains: "Mapping[str, NDArray[np.float32]]",
    shipped: "Sequence[NDArray[np.float32]]",
    blocks: "Sequence[Block]",
    before: "Sequence[NDArray[np.float32]]",
    *,
    left_alone: bool = False,
) -> Iterator[Lost]:
    """Yield the gains of the source that the float file `before` has, and the shipped vectors have not.

    `blocks` are the matrices of the shipped file, whose factors of rows may take back what a gain was divided by.
    `left_alone`: but for such factors, the precision changes no gain.
    """
    for name, gain in gains.items():
        if len(gain) < LEAST:
            continue
        kept = [v for v in before if len(v) == len(gain)]
        base = next((b for b in _bases(gain) if _is_kept(b, kept)), None)
        if base is None:
            continue
        finite = [v for v in shipped if len(v) == len(gain) and np.isfinite(v).all()]
        of_size = finite, [b for b in blocks if len(b.rows) == len(gain)]
        off = _nearest(gain, *of_size) if _spread(gain[None])[0] > ROOM else 0.0
        if off > 1:
            yield Lost(f"the gain {name}", f"the nearest differs in its numbers by {off:.2g} times what is allowed")
        elif (alike := _alike(base, *of_size)) < LIKE:
            yield Lost(f"the gain {name}", f"the numbers of the nearest have other places (correlation {alike:.2f})")
        elif left_alone and not _is_kept(base, finite) and not _is_divided(base, _changed(finite, before), of_size[1]):
            yield Lost(f"the gain {name}", "no vector has its numbers, nor has them divided by factors of rows")


def divisors(
    gains: "Mapping[str, NDArray[np.float32]]",
    shipped: "Sequence[NDArray[np.float32]]",
    before: "Sequence[NDArray[np.float32]]",
) -> "Iterator[NDArray[np.float32]]":
    """Yield what gains of the source may have been divided by to become vectors of the file, where none has them.

    Vectors of the float file `before` that are as they were are no divided gains.
    """
    changed = _changed(shipped, before)
    for gain in gains.values():
        for base in _bases(gain):
            of_size = [v for v in shipped if len(v) == len(base)]
            if not _is_kept(base, of_size):
                yield from (base / v for v in changed if len(v) == len(base))


def _changed(
    shipped: "Sequence[NDArray[np.float32]]", before: "Sequence[NDArray[np.float32]]"
) -> "list[NDArray[np.float32]]":
    """Return the vectors that `before` has not: none of a divided gain's numbers is 0 or infinite."""
    known = {v.tobytes() for v in before}
    return [v for v in shipped if v.tobytes() not in known and np.isfinite(v).all() and (v != 0).all()]


def _bases(gain: "NDArray[np.float32]") -> "list[NDArray[np.float32]]":
    """Return what a normalization multiplies by: its gain, or that and 1."""
    return [base for base in (gain, 1 + gain) if (base != 0).all()]


def _nearest(gain: "NDArray[np.float32]", shipped: "Sequence[NDArray[np.float32]]", blocks: "Sequence[Block]") -> float:
    """Return the spread of what explains a gain best, over what is allowed for it."""
    best = float("inf")
    factors = np.stack([np.ones_like(gain), *(b.rows for b in blocks)])
    errors = [0.0, *(float(np.median(b.row_errors)) for b in blocks)]
    rooms = np.array([ROOM + ERRORS * e for e in errors])
    some = np.linspace(0, len(gain) - 1, min(SAMPLE, len(gain))).astype(int)
    for base in _bases(gain) if shipped else ():
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


def _is_kept(base: "NDArray[np.float32]", vectors: "Sequence[NDArray[np.float32]]") -> bool:
    return bool(vectors) and float(_spread(np.stack(vectors) / base).min()) <= EXACT


def _is_divided(
    base: "NDArray[np.float32]", changed: "Sequence[NDArray[np.float32]]", blocks: "Sequence[Block]"
) -> bool:
    """Tell whether one of `changed` is a gain divided by a matrix's factors of rows; true where that cannot be told."""
    for vector in changed:
        by = _logs(base / vector)
        for block in blocks:
            error, known = _known_rows(block)
            given, found = (logs[known] - logs[known].mean() for logs in (by, _logs(block.rows)))
            rms = float(np.sqrt(np.mean(np.square(error[known]))))
            near = np.std(found - given) <= ERRORS * rms
            power = max(float(given @ given), 1e-30)
            if near and (rms > UNSURE * np.sqrt(power) or given @ found >= ALONG * power):
                return True
    return False


def _known_rows(block: "Block") -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
    """Return the standard errors of factors of rows, over the factor, and the rows whose factor is known.

    That of a row of small weights is not: all of them round to few numbers.
    """
    error = block.row_errors
    return error, np.flatnonzero(error <= ERRORS * np.median(error)).astype(np.int64)


def _alike(base: "NDArray[np.float32]", shipped: "Sequence[NDArray[np.float32]]", blocks: "Sequence[Block]") -> float:
    """Return the correlation of a gain with what is most like it; 1 where the factors of rows are not known so well."""
    if not shipped:
        return 1.0
    wanted, given = np.log(np.abs(base, dtype=np.float64)), _logs(np.stack(shipped))
    best = float(_correlations(wanted, given).max())
    for block in blocks:
        if best >= LIKE:
            break
        error, known = _known_rows(block)
        variation = wanted[known].std()
        expected = variation / max(np.hypot(variation, np.sqrt(np.mean(np.square(error[known])))), EXACT)
        if expected - CERTAIN * (1 - expected**2) / np.sqrt(len(known)) < LIKE:
            return 1.0
        explained = given[:, known] + _logs(block.rows[None, known])
        best = max(best, float(_correlations(wanted[known], explained).max()))
    return best


def _logs(values: "NDArray[np.float32]") -> "NDArray[np.float64]":
    return np.asarray(np.log(np.maximum(np.abs(values.astype(np.float64)), 1e-30)))


def _correlations(wanted: "NDArray[np.float64]", rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return how far each row goes along with `wanted`; 1 where that is everywhere the same."""
    wanted, rows = wanted - wanted.mean(), rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(wanted)
    if length <= EXACT * np.sqrt(len(wanted)):
        return np.ones(len(rows))
    return np.asarray(rows @ wanted / np.maximum(np.linalg.norm(rows, axis=1) * length, 1e-30))


def _spread(ratios: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Return how far the numbers of each row are from being alike, in the logarithm; infinite where signs differ."""
    logs = np.log(np.maximum(np.abs(ratios.astype(np.float64)), 1e-30))
    spread = _NORMAL * np.median(np.abs(logs - np.median(logs, axis=1, keepdims=True)), axis=1)
    same = np.maximum((ratios > 0).mean(axis=1), (ratios < 0).mean(axis=1))
    return np.asarray(np.where(same >= SAME_SIGN, spread, np.inf))
