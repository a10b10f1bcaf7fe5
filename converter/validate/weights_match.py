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
SETTLED = 1e-2
"""Change of a row's factor, over the median one, below which another round of fitting would tell nothing new."""
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


@dataclass(frozen=True)
class Known:
    """A matrix `[in, out]` of the source, and the signs that it is recognized by."""

    weight: "NDArray[np.float32]"
    picked: "NDArray[np.int64]"
    """Columns that are looked at."""
    signs: "NDArray[np.float32]"
    """Of the larger half of the weights of each such column; 0 for the others."""

    @classmethod
    def of(cls, weight: "NDArray[np.float32]") -> "Known":
        picked = np.unique(np.linspace(0, weight.shape[1] - 1, SAMPLE).astype(int))
        some = np.ascontiguousarray(weight[:, picked].T)
        large = np.abs(some) > np.median(np.abs(some), axis=1, keepdims=True)
        return cls(weight, picked, np.where(large, np.sign(some), 0).astype(np.float32))

    def alike(self, values: "NDArray[np.float32]", at: int) -> float:
        """Return the share of these signs that the columns of `values` from `at` on have too."""
        found = np.sign(values[:, at + self.picked].T)
        # In four bits the smaller weights are zeros.
        n = np.count_nonzero(found * self.signs)
        return float(np.count_nonzero(found * self.signs > 0)) / n if n else 0.0


def known(source: "Mapping[str, NDArray[np.float32]]") -> dict[str, Known]:
    """Return the matrices of the source as `match_product` looks for them."""
    return {name: Known.of(weight) for name, weight in source.items() if weight.size}


def match_product(one: "Stored", source: "Mapping[str, Known]") -> tuple[list[Block], int]:
    """Find the matrices of the source that lie side by side in a stored one.

    Returns them, and how many columns are none of the source.
    """
    blocks: list[Block] = []
    width, at, lost = one.values.shape[1], 0, 0
    while at < width:
        name = _source_at(one.values, at, source)
        if name is not None:
            blocks.append(_fitted(one, at, name, source[name].weight))
            at += source[name].weight.shape[1]
        elif lost >= SAMPLE:
            return blocks, lost + width - at
        else:
            lost, at = lost + 1, at + 1
    return blocks, lost


def _source_at(values: "NDArray[np.float32]", at: int, source: "Mapping[str, Known]") -> str | None:
    best, name = LIKE, None
    for candidate, one in source.items():
        if len(one.weight) != len(values) or at + one.weight.shape[1] > values.shape[1]:
            continue
        alike = one.alike(values, at)
        if alike > best:
            best, name = alike, candidate
    return name


def _fitted(one: "Stored", at: int, name: str, weight: "NDArray[np.float32]") -> Block:
    """Fit by least squares, every column as large as any other: rounding is alike in each, whatever its size."""
    found = one.values[:, at : at + weight.shape[1]]
    if one.bits > BYTE and (block := _unchanged(one, at, name, weight, found)) is not None:
        return block
    rows, columns = np.ones(len(weight), np.float32), np.ones(weight.shape[1], np.float32)
    for _ in range(ROUNDS):
        before = rows
        columns = _ratio(found, weight * rows[:, None], axis=0)
        seen = weight * columns
        lengths = _lengths(seen * rows[:, None])
        seen /= lengths
        # One weight may be nearly all of its column: it would answer for its row alone.
        trust = np.minimum(1, LEVERAGE / np.sqrt(len(weight)) / np.maximum(np.abs(seen), 1e-30))
        rows = _ratio(found / lengths * trust, seen * trust, axis=1)
        middle = float(np.median(np.abs(rows))) or 1.0
        rows, columns = rows / middle, columns * middle
        if float(np.abs(rows - before).max(initial=0)) <= SETTLED:
            break
    made = weight * rows[:, None] * columns
    lengths = _lengths(made)
    made /= lengths
    lost = found / lengths - made
    power = np.square(weight * (columns / lengths) * trust).sum(axis=1)
    spread = np.sqrt(np.square(lost).mean() / np.maximum(power, 1e-30))
    errors = np.linalg.norm(lost, axis=0) / _rounding(made, one.bits)
    return Block(name, one.name, one.bits, at, rows, columns, errors, spread)


def _unchanged(
    one: "Stored", at: int, name: str, weight: "NDArray[np.float32]", found: "NDArray[np.float32]"
) -> Block | None:
    """Return what a float matrix is that nothing was multiplied by: fitting takes a dozen times as long."""
    errors = np.linalg.norm(found - weight, axis=0) / _lengths(weight) / FLOAT_ERROR[min(one.bits, 32)]
    if not np.max(errors, initial=0) <= 1:
        return None
    rows, columns = np.ones(len(weight), np.float32), np.ones(weight.shape[1], np.float32)
    return Block(name, one.name, one.bits, at, rows, columns, errors, np.zeros_like(rows))


def _rounding(made: "NDArray[np.float32]", bits: int) -> "NDArray[np.float32]":
    """Return the length of the error that rounding columns `[in, out]` to `bits` makes of each, with a scale each."""
    if bits > BYTE:
        return np.full(made.shape[1], FLOAT_ERROR[min(bits, 32)], dtype=np.float32)
    step = np.abs(made).max(axis=0) / (2 ** (bits - 1) - 1)
    return np.asarray(step * np.sqrt(len(made) / 12) + FLOAT_ERROR[32], dtype=np.float32)


def _lengths(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    made = np.linalg.norm(values, axis=0)
    return np.maximum(made, float(made.max(initial=0)) * 1e-4 + 1e-30)


def _ratio(found: "NDArray[np.float32]", weight: "NDArray[np.float32]", axis: int) -> "NDArray[np.float32]":
    """Return what rows (or columns) of `weight` are to be multiplied by; 1 where there is nothing to tell it by."""
    power = np.square(weight).sum(axis=axis)
    made = (found * weight).sum(axis=axis) / np.maximum(power, 1e-30)
    return np.where(power > float(power.max(initial=0)) * 1e-10, made, 1).astype(np.float32)
