"""Which matrix of the source a stored matrix is, and by what its rows and columns were multiplied.

Rewrites merge and turn matrices and move factors between layers, none changes which weights are positive: so matrices
are told apart by the signs of their weights, whatever the file calls them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.stored import Stored

SAMPLE = 24
"""Columns whose signs are compared."""
LIKE = 0.7
"""Share of equal signs from which a matrix is taken for another one; of unrelated ones half are equal."""
ROUNDS = 6
MOST_COLUMNS = 4096
"""That are fitted at a time, and that tell what rows were multiplied by: an output layer has tens of thousands."""
MOST_ALIKE = 2
"""Blocks of which none can be told to be the wrong one."""
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


@dataclass(frozen=True)
class Matched:
    """What the products of a file were found to be."""

    blocks: tuple[Block, ...]
    unknown: tuple[tuple[str, int], ...]
    """Stored matrices with columns that are no matrix of the source, and how many columns."""


def match_product(one: "Stored", source: "Mapping[str, NDArray[np.float32]]") -> tuple[list[Block], int]:
    """Find the matrices `[in, out]` of the source that lie side by side in a stored one.

    Returns them, and how many columns are none of the source.
    """
    blocks: list[Block] = []
    width, at, lost = one.values.shape[1], 0, 0
    while at < width:
        name = _source_at(one.values, at, source)
        if name is not None:
            blocks.append(_fitted(one, at, name, source[name]))
            at += source[name].shape[1]
        elif lost >= SAMPLE:
            return blocks, lost + width - at
        else:
            lost, at = lost + 1, at + 1
    return blocks, lost


def _source_at(values: "NDArray[np.float32]", at: int, source: "Mapping[str, NDArray[np.float32]]") -> str | None:
    best, name = LIKE, None
    for candidate, weight in source.items():
        size = weight.shape[1]
        if len(weight) != len(values) or at + size > values.shape[1]:
            continue
        picked = np.unique(np.linspace(0, size - 1, SAMPLE).astype(int))
        alike = _alike(values[:, at + picked], weight[:, picked])
        if alike > best:
            best, name = alike, candidate
    return name


def _alike(found: "NDArray[np.float32]", wanted: "NDArray[np.float32]") -> float:
    """Return the share of equal signs among the larger half of the weights of each column."""
    size = np.abs(wanted)
    large = size > np.median(size, axis=0, keepdims=True)
    # In four bits the smaller weights are zeros.
    large &= found != 0
    return float((np.sign(found) == np.sign(wanted))[large].mean()) if large.any() else 0.0


def _fitted(one: "Stored", at: int, name: str, weight: "NDArray[np.float32]") -> Block:
    """Fit by least squares, every column as large as any other: rounding is alike in each, whatever its size."""
    found = one.values[:, at : at + weight.shape[1]]
    if one.bits > BYTE and (block := _unchanged(one, at, name, weight, found)) is not None:
        return block
    step = max(1, -(-weight.shape[1] // MOST_COLUMNS))
    rows = _row_factors(found[:, ::step], weight[:, ::step])
    fits = [
        _fit(found[:, i : i + MOST_COLUMNS], weight[:, i : i + MOST_COLUMNS], rows, one)
        for i in range(0, weight.shape[1], MOST_COLUMNS)
    ]
    columns, errors = (np.concatenate([getattr(f, side) for f in fits]) for side in ("columns", "errors"))
    lost, power = sum(f.lost for f in fits) / weight.size, sum((f.power for f in fits), np.zeros(len(weight)))
    spread = np.sqrt(lost / np.maximum(power, 1e-30)).astype(np.float32)
    return Block(name, one.name, one.bits, at, rows, columns, errors, spread)


def _row_factors(found: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return what the rows of `weight` were multiplied by, the median of them 1."""
    rows = np.ones(len(weight), np.float32)
    for _ in range(ROUNDS):
        columns = _ratio(found, weight * rows[:, None], axis=0)
        lengths = _lengths(weight * rows[:, None] * columns)
        seen = weight * columns / lengths
        trust = _trust(seen)
        rows = _ratio(found / lengths * trust, seen * trust, axis=1)
        rows /= float(np.median(np.abs(rows))) or 1.0
    return rows


@dataclass(frozen=True)
class _Fit:
    """Some columns with the factors of all rows known."""

    columns: "NDArray[np.float32]"
    errors: "NDArray[np.float32]"
    lost: float
    """Sum of squared errors, in parts of each column's length."""
    power: "NDArray[np.float32]"
    """Of each row, by which its factor is known."""


def _fit(
    found: "NDArray[np.float32]", weight: "NDArray[np.float32]", rows: "NDArray[np.float32]", one: "Stored"
) -> _Fit:
    made = weight * rows[:, None]
    columns = _ratio(found, made, axis=0) if not one.block else _by_blocks(found, made, one.block)
    made = made * columns
    lengths = _lengths(made)
    seen = weight * columns / lengths
    power = np.square(seen * _trust(seen)).sum(axis=1)
    made, lost = made / lengths, np.asarray((found - made) / lengths, dtype=np.float32)
    errors = np.linalg.norm(lost, axis=0) / _rounding(made, one)
    if one.block:
        errors = np.maximum(errors, _block_errors(lost, made, one).max(axis=0))
    return _Fit(columns, errors.astype(np.float32), float(np.square(lost).sum()), power)


def _by_blocks(found: "NDArray[np.float32]", weight: "NDArray[np.float32]", block: int) -> "NDArray[np.float32]":
    """Return what columns are to be multiplied by, as most of their blocks have it: a wrong scale has no say."""
    starts = range(0, len(weight), block)
    ratios = [_ratio(found[i : i + block], weight[i : i + block], axis=0) for i in starts]
    if len(ratios) <= MOST_ALIKE:
        return _ratio(found, weight, axis=0)
    return np.asarray(np.median(ratios, axis=0), dtype=np.float32)


def _trust(seen: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return how far each weight counts: one may be nearly all of its column, and would answer for its row alone."""
    return np.minimum(1, LEVERAGE / np.sqrt(len(seen)) / np.maximum(np.abs(seen), 1e-30))


def _unchanged(
    one: "Stored", at: int, name: str, weight: "NDArray[np.float32]", found: "NDArray[np.float32]"
) -> Block | None:
    """Return what a float matrix is that nothing was multiplied by: fitting takes a dozen times as long."""
    errors = np.linalg.norm(found - weight, axis=0) / _lengths(weight) / FLOAT_ERROR[min(one.bits, 32)]
    if not np.max(errors, initial=0) <= 1:
        return None
    rows, columns = np.ones(len(weight), np.float32), np.ones(weight.shape[1], np.float32)
    return Block(name, one.name, one.bits, at, rows, columns, errors, np.zeros_like(rows))


def _rounding(made: "NDArray[np.float32]", one: "Stored") -> "NDArray[np.float32]":
    """Return the length of the error that rounding columns `[in, out]` makes of each, with its scales as they are."""
    if one.bits > BYTE:
        return np.full(made.shape[1], FLOAT_ERROR[min(one.bits, 32)], dtype=np.float32)
    if one.block:
        steps = _block_steps(made, one)
        return np.asarray(np.sqrt(np.square(steps).sum(axis=0) * one.block / 12) + FLOAT_ERROR[32], dtype=np.float32)
    step = np.abs(made).max(axis=0) / (2 ** (one.bits - 1) - 1)
    return np.asarray(step * np.sqrt(len(made) / 12) + FLOAT_ERROR[32], dtype=np.float32)


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
    made = np.linalg.norm(values, axis=0)
    return np.maximum(made, float(made.max(initial=0)) * 1e-4 + 1e-30)


def _ratio(found: "NDArray[np.float32]", weight: "NDArray[np.float32]", axis: int) -> "NDArray[np.float32]":
    """Return what rows (or columns) of `weight` are to be multiplied by; 1 where there is nothing to tell it by."""
    power = np.square(weight).sum(axis=axis)
    made = (found * weight).sum(axis=axis) / np.maximum(power, 1e-30)
    return np.where(power > float(power.max(initial=0)) * 1e-10, made, 1).astype(np.float32)
