"""Which matrix of the source a stored matrix is, and by what its rows and columns were multiplied.

Rewrites merge and turn matrices and move factors between layers, none changes which weights are positive: so matrices
are told apart by the signs of their weights, whatever the file calls them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.resources import PagesRead
from converter.validate.stored import as_float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.stored import Stored

SAMPLE = 24
"""Columns whose signs are compared."""
LIKE = 0.7
"""Share of equal signs from which a matrix is taken for another one; of unrelated ones half are equal."""
CHANCE, SURELY = 3.0, 0.9
"""Of few signs, as of three columns, more must be equal: six standard errors of chance; so many are enough."""
ROUNDS = 6
SETTLED = 1e-2
"""Change of a row's factor, over the median one, below which another round of fitting would tell nothing new."""
MOST_COLUMNS = 4096
"""That are fitted at a time, and that tell what rows were multiplied by: an output layer has tens of thousands."""
MOST_ALIKE = 2
"""Blocks of which none can be told to be the wrong one."""
HALF_STEP = 0.5 / 8
"""Weights of one value, as those of a codebook, are all rounded the same way, by at most half a step: eight standard
errors of a factor (`factors.SIGMAS`) are at least as much."""
LEAST_STEP = 0.05
"""Of a block, in parts of the largest of its column."""
BYTE = 8
FLOAT_ERROR = {16: 5e-4, 32: 1e-5}
"""Relative error of a float weight of so many bits that was multiplied by factors."""
LEVERAGE = 3.0
"""Part of a column, over what each of its weights has on average, that a weight counts with at most."""


@dataclass(frozen=True)
class Block:
    """Columns of a stored matrix that are a matrix of the source: `stored ≈ rows[:, None] * source * columns`."""

    source: str
    stored: str
    bits: int
    start: int
    rows: "NDArray[np.float32]"
    columns: "NDArray[np.float32]"
    errors: "NDArray[np.float32]"
    """Of each column, over what rounding to the file's bits explains."""
    spread: "NDArray[np.float32]"
    """Standard error of each of `rows`, in parts of the median row's factor."""
    coarse: "NDArray[np.float32]"
    """The same at least, should all weights of a row be rounded the same way."""
    shared: int = 0
    """Weights of a column that share a scale; 0: all of them."""
    values: "NDArray[np.float32] | None" = None
    """As they are stored, `[in, out]`; None where rounding them moves answers little."""

    @property
    def row_errors(self) -> "NDArray[np.float32]":
        """Standard error of the factor of each row, over that factor."""
        return np.asarray(self.spread / np.maximum(np.abs(self.rows), 1e-12), dtype=np.float32)


@dataclass(frozen=True)
class Matched:
    """What the products of a file were found to be."""

    blocks: tuple[Block, ...]
    unknown: tuple[tuple[str, int], ...]
    """Stored matrices with columns that are no matrix of the source, and how many columns."""


@dataclass(frozen=True)
class Known:
    """A matrix `[in, out]` of the source, in the type in which it is stored, and the signs that it is recognized by."""

    weight: "NDArray[Any]"
    picked: "NDArray[np.int64]"
    """Columns that are looked at."""
    signs: "NDArray[np.float32]"
    """Of the larger half of the weights of each such column; 0 for the others."""
    least: float
    """Share of equal signs from which it is taken for another one."""

    @classmethod
    def of(cls, weight: "NDArray[Any]") -> "Known":
        picked = np.unique(np.linspace(0, weight.shape[1] - 1, SAMPLE).astype(int))
        some = np.ascontiguousarray(as_float32(weight[:, picked]).T)
        large = np.abs(some) > np.median(np.abs(some), axis=1, keepdims=True)
        chance = 0.5 + CHANCE / math.sqrt(max(1, int(np.count_nonzero(large))))
        least = max(LIKE, min(SURELY, chance))
        return cls(weight, picked, np.where(large, np.sign(some), 0).astype(np.float32), least)

    def alike(self, values: "NDArray[np.float32]", at: int) -> float:
        """Return the share of these signs that the columns of `values` from `at` on have too."""
        found = np.sign(values[:, at + self.picked].T)
        # In four bits the smaller weights are zeros.
        n = np.count_nonzero(found * self.signs)
        return float(np.count_nonzero(found * self.signs > 0)) / n if n else 0.0


def known(source: "Mapping[str, NDArray[Any]]") -> dict[str, Known]:
    """Return the matrices of the source as `match_product` looks for them."""
    made, pages = {}, PagesRead()
    for name, weight in source.items():
        if weight.size:
            made[name] = Known.of(weight)
            pages.add(weight.nbytes)
    return made


def match_product(one: "Stored", source: "Mapping[str, Known]", *, keep: bool = False) -> tuple[list[Block], int]:
    """Find the matrices of the source that lie side by side in a stored one.

    Returns them, and how many columns are none of the source. `keep`: with their values, where these are in blocks of
    fewer than 8 bits: all of them together are the model once more.
    """
    blocks: list[Block] = []
    width, at, lost = one.values.shape[1], 0, 0
    while at < width:
        name = _source_at(one.values, at, source)
        if name is not None:
            blocks.append(_fitted(one, at, name, as_float32(source[name].weight), keep=keep))
            at += source[name].weight.shape[1]
        elif lost >= SAMPLE:
            return blocks, lost + width - at
        else:
            lost, at = lost + 1, at + 1
    return blocks, lost


def _source_at(values: "NDArray[np.float32]", at: int, source: "Mapping[str, Known]") -> str | None:
    best, name = 0.0, None
    for candidate, one in source.items():
        if len(one.weight) != len(values) or at + one.weight.shape[1] > values.shape[1]:
            continue
        alike = one.alike(values, at)
        if alike > max(best, one.least):
            best, name = alike, candidate
    return name


def _fitted(one: "Stored", at: int, name: str, weight: "NDArray[np.float32]", *, keep: bool) -> Block:
    """Fit by least squares, every column as large as any other: rounding is alike in each, whatever its size."""
    found = one.values[:, at : at + weight.shape[1]]
    if one.bits > BYTE and (block := _in_float(one, at, name, weight, found)) is not None:
        return block
    step = max(1, -(-weight.shape[1] // MOST_COLUMNS))
    rows = _row_factors(np.asfortranarray(found[:, ::step]), np.asfortranarray(weight[:, ::step]))
    fits = [
        _fit(
            np.asfortranarray(found[:, i : i + MOST_COLUMNS]),
            np.asfortranarray(weight[:, i : i + MOST_COLUMNS]),
            rows,
            one,
        )
        for i in range(0, weight.shape[1], MOST_COLUMNS)
    ]
    columns, errors = (np.concatenate([getattr(f, side) for f in fits]) for side in ("columns", "errors"))
    lost, power = sum(f.lost for f in fits) / weight.size, sum((f.power for f in fits), np.zeros(len(weight)))
    spread = np.sqrt(lost / np.maximum(power, 1e-30)).astype(np.float32)
    in_steps = np.sqrt(np.maximum(sum((f.in_steps for f in fits), np.zeros(len(weight))) / weight.shape[1], 1e-12))
    coarse = (HALF_STEP / in_steps if one.bits <= BYTE else np.zeros_like(spread)).astype(np.float32)
    kept = found if keep and one.block and one.bits < BYTE else None
    return Block(name, one.name, one.bits, at, rows, columns, errors, spread, coarse, one.block, kept)


def _row_factors(found: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return what the rows of `weight` were multiplied by, the median of them 1.

    Sums of products that do not change are made once; all arrays have one order in memory, and few are made.
    """
    squares, products, parts = weight * weight, found * weight, np.empty_like(weight)
    ratios = np.divide(found, weight, out=np.zeros_like(weight), where=squares > 0)
    rows = np.ones(len(weight), np.float32)
    for _ in range(ROUNDS):
        before = rows
        columns = _quotient(rows @ products, (rows * rows) @ squares)
        lengths = _floored(np.abs(columns) * np.sqrt((rows * rows) @ squares))
        _trusted(squares, np.square(columns / lengths), parts)
        power = parts.sum(axis=1)
        rows = _quotient(np.multiply(parts, ratios, out=parts) @ (1 / _no_zeros(columns)), power)
        rows /= float(np.median(np.abs(rows))) or 1.0
        if float(np.abs(rows - before).max(initial=0)) <= SETTLED:
            break
    return rows


def _trusted(
    squares: "NDArray[np.float32]", factors: "NDArray[np.float32]", made: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    """Return how far each weight counts: one may be nearly all of its column, and would answer for its row alone."""
    return np.minimum(np.multiply(squares, factors, out=made), LEVERAGE**2 / len(squares), out=made)


@dataclass(frozen=True)
class _Fit:
    """Some columns with the factors of all rows known."""

    columns: "NDArray[np.float32]"
    errors: "NDArray[np.float32]"
    lost: float
    """Sum of squared errors, in parts of each column's length."""
    power: "NDArray[np.float32]"
    """Of each row, by which its factor is known."""
    in_steps: "NDArray[np.float32]"
    """Sum of each row's squared weights, factors of rows left out, in steps of the file's whole numbers."""


def _fit(
    found: "NDArray[np.float32]", weight: "NDArray[np.float32]", rows: "NDArray[np.float32]", one: "Stored"
) -> _Fit:
    made = weight * rows[:, None]
    columns = _by_blocks(found, made, one.block) if one.block else _ratios(found, made)
    in_steps = np.zeros(len(weight), np.float32)
    if one.bits <= BYTE:
        in_steps = np.square(weight * columns / _steps(found, one)).sum(axis=1)
    made *= columns
    lengths = _lengths(made)
    power = _trusted(weight * weight, np.square(columns / lengths), np.empty_like(weight)).sum(axis=1)
    made /= lengths
    lost = np.asarray(made - found / lengths, dtype=np.float32)
    squared = np.einsum("ij,ij->j", lost, lost)
    errors = np.sqrt(squared) / _rounding(made, one)
    if one.block:
        errors = np.maximum(errors, _block_errors(lost, made, one).max(axis=0))
    return _Fit(columns, errors.astype(np.float32), float(squared.sum()), power, in_steps)


def _by_blocks(found: "NDArray[np.float32]", weight: "NDArray[np.float32]", block: int) -> "NDArray[np.float32]":
    """Return what columns are to be multiplied by, as most of their blocks have it: a wrong scale has no say."""
    starts = range(0, len(weight), block)
    ratios = [_ratios(found[i : i + block], weight[i : i + block]) for i in starts]
    if len(ratios) <= MOST_ALIKE:
        return _ratios(found, weight)
    return np.asarray(np.median(ratios, axis=0), dtype=np.float32)


def _ratios(found: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return _quotient(np.einsum("ij,ij->j", found, weight), np.einsum("ij,ij->j", weight, weight))


def _in_float(
    one: "Stored", at: int, name: str, weight: "NDArray[np.float32]", found: "NDArray[np.float32]"
) -> Block | None:
    """Return what a float matrix is that nothing, or a factor a row and one a column, was multiplied by; else None.

    Fitting takes a dozen times as long, and its factors are not exact to the last bits: products that were smoothed and
    left in float would be called wrong.
    """
    rows, columns = np.ones(len(weight), np.float32), np.ones(weight.shape[1], np.float32)
    errors = _float_errors(found, weight, one.bits)
    if not np.max(errors, initial=0) <= 1:
        ratios = np.divide(found, weight, out=np.full_like(found, np.nan), where=weight != 0)
        rows = _middles(ratios, 1)
        columns = _middles(np.asarray(ratios / _no_zeros(rows)[:, None], dtype=np.float32), 0)
        errors = _float_errors(found, weight * rows[:, None] * columns, one.bits)
        if not np.max(errors, initial=0) <= 1:
            return None
        middle = np.float32(np.median(np.abs(rows)) or 1.0)
        rows, columns = rows / middle, columns * middle
    exact = np.zeros_like(rows)
    return Block(name, one.name, one.bits, at, rows, columns, errors, exact, exact)


def _float_errors(found: "NDArray[np.float32]", made: "NDArray[np.float32]", bits: int) -> "NDArray[np.float32]":
    off = np.linalg.norm(found - made, axis=0) / _lengths(made) / FLOAT_ERROR[min(bits, 32)]
    return np.asarray(off, dtype=np.float32)


def _middles(ratios: "NDArray[np.float32]", axis: int) -> "NDArray[np.float32]":
    """Return the median of what is a number, and 1 where nothing is."""
    known = np.asarray(~np.isnan(ratios).all(axis=axis))
    made = np.ones(len(known), np.float32)
    made[known] = np.nanmedian(ratios[known] if axis else ratios[:, known], axis=axis)
    return made


def _rounding(made: "NDArray[np.float32]", one: "Stored") -> "NDArray[np.float32]":
    """Return the length of the error that rounding columns `[in, out]` makes of each, with its scales as they are."""
    if one.bits > BYTE:
        return np.full(made.shape[1], FLOAT_ERROR[min(one.bits, 32)], dtype=np.float32)
    if one.block:
        steps = _block_steps(made, one)
        return np.asarray(np.sqrt(np.square(steps).sum(axis=0) * one.block / 12) + FLOAT_ERROR[32], dtype=np.float32)
    step = np.maximum(made.max(axis=0), -made.min(axis=0)) / (2 ** (one.bits - 1) - 1)
    return np.asarray(step * np.sqrt(len(made) / 12) + FLOAT_ERROR[32], dtype=np.float32)


def _steps(found: "NDArray[np.float32]", one: "Stored") -> "NDArray[np.float32]":
    """Return the step of each weight `[in, out]`, or of each column `[1, out]` where all of its weights share one."""
    if one.block:
        return np.repeat(np.maximum(_block_steps(found, one), 1e-30), one.block, axis=0)[: len(found)]
    largest = np.float32(2 ** (one.bits - 1) - 1)
    return np.asarray(np.maximum(np.abs(found).max(axis=0, keepdims=True), 1e-30) / largest, dtype=np.float32)


def _block_steps(made: "NDArray[np.float32]", one: "Stored") -> "NDArray[np.float32]":
    """Return the step of each block `[blocks, out]`; of weights that are next to nothing, one that is not."""
    steps = np.maximum.reduceat(np.abs(made), range(0, len(made), one.block), axis=0) / (2 ** (one.bits - 1) - 1)
    return np.maximum(steps, LEAST_STEP * steps.max(axis=0, keepdims=True))


def _block_errors(lost: "NDArray[np.float32]", made: "NDArray[np.float32]", one: "Stored") -> "NDArray[np.float32]":
    """Return the error of each block `[blocks, out]` over what rounding explains: a scale is a block's own."""
    own = np.sqrt(np.add.reduceat(np.square(lost), range(0, len(lost), one.block), axis=0))
    allowed = _block_steps(made, one) * np.sqrt(one.block / 12) + FLOAT_ERROR[32]
    return np.asarray(own / allowed, dtype=np.float32)


def _lengths(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return _floored(np.sqrt(np.einsum("ij,ij->j", values, values)))


def _floored(lengths: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return np.maximum(lengths, float(lengths.max(initial=0)) * 1e-4 + 1e-30)


def _quotient(above: "NDArray[np.floating[Any]]", power: "NDArray[np.floating[Any]]") -> "NDArray[np.float32]":
    """Return what rows (or columns) are to be multiplied by; 1 where there is nothing to tell it by."""
    made = above / np.maximum(power, 1e-30)
    return np.where(power > float(power.max(initial=0)) * 1e-10, made, 1).astype(np.float32)


def _no_zeros(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return np.where(np.abs(values) > 1e-30, values, np.float32(1e-30))
