"""Which matrix of the source a stored matrix is, and by what its rows and columns were multiplied.

Rewrites merge and turn matrices and move factors between layers, none changes which weights are positive: so matrices
are told apart by the signs of their weights, whatever the file calls them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
    least: float
    """Share of equal signs from which it is taken for another one."""

    @classmethod
    def of(cls, weight: "NDArray[np.float32]") -> "Known":
        picked = np.unique(np.linspace(0, weight.shape[1] - 1, SAMPLE).astype(int))
        some = np.ascontiguousarray(weight[:, picked].T)
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
    best, name = 0.0, None
    for candidate, one in source.items():
        if len(one.weight) != len(values) or at + one.weight.shape[1] > values.shape[1]:
            continue
        alike = one.alike(values, at)
        if alike > max(best, one.least):
            best, name = alike, candidate
    return name


def _fitted(one: "Stored", at: int, name: str, weight: "NDArray[np.float32]") -> Block:
    """Fit by least squares, every column as large as any other: rounding is alike in each, whatever its size.

    Sums of products that do not change are made once; all arrays have one order in memory, and few are made.
    """
    weight, found = np.asfortranarray(weight), np.asfortranarray(one.values[:, at : at + weight.shape[1]])
    if one.bits > BYTE and (block := _unchanged(one, at, name, weight, found)) is not None:
        return block
    squares, products, parts = weight * weight, found * weight, np.empty_like(weight)
    ratios = np.divide(found, weight, out=np.zeros_like(weight), where=squares > 0)
    rows, most = np.ones(len(weight), np.float32), LEVERAGE**2 / len(weight)
    for _ in range(ROUNDS):
        before = rows
        columns = _quotient(rows @ products, (rows * rows) @ squares)
        lengths = _floored(np.abs(columns) * np.sqrt((rows * rows) @ squares))
        # One weight may be nearly all of its column: it would answer for its row alone.
        np.minimum(np.multiply(squares, np.square(columns / lengths), out=parts), most, out=parts)
        power = parts.sum(axis=1)
        rows = _quotient(np.multiply(parts, ratios, out=parts) @ (1 / _no_zeros(columns)), power)
        middle = float(np.median(np.abs(rows))) or 1.0
        rows, columns = rows / middle, columns * middle
        if float(np.abs(rows - before).max(initial=0)) <= SETTLED:
            break
    made = np.multiply(np.multiply(weight, rows[:, None], out=parts), columns, out=parts)
    lengths = _lengths(made)
    largest = np.maximum(made.max(axis=0, initial=0), -made.min(axis=0, initial=0)) / lengths
    made -= found
    lost = np.sqrt(np.einsum("ij,ij->j", made, made)) / lengths
    spread = np.sqrt(np.square(lost).sum() / max(1, weight.size) / np.maximum(power, 1e-30))
    return Block(name, one.name, one.bits, at, rows, columns, lost / _rounding(largest, len(made), one.bits), spread)


def _unchanged(
    one: "Stored", at: int, name: str, weight: "NDArray[np.float32]", found: "NDArray[np.float32]"
) -> Block | None:
    """Return what a float matrix is that nothing was multiplied by: fitting takes a dozen times as long."""
    errors = np.linalg.norm(found - weight, axis=0) / _lengths(weight) / FLOAT_ERROR[min(one.bits, 32)]
    if not np.max(errors, initial=0) <= 1:
        return None
    rows, columns = np.ones(len(weight), np.float32), np.ones(weight.shape[1], np.float32)
    return Block(name, one.name, one.bits, at, rows, columns, errors, np.zeros_like(rows))


def _rounding(largest: "NDArray[np.float32]", n: int, bits: int) -> "NDArray[np.float32]":
    """Return the length of the error that rounding columns of length 1 to `bits` makes of each, with a scale each.

    `largest` are the sizes of the largest of their `n` weights.
    """
    if bits > BYTE:
        return np.full(len(largest), FLOAT_ERROR[min(bits, 32)], dtype=np.float32)
    step = largest / (2 ** (bits - 1) - 1)
    return np.asarray(step * np.sqrt(n / 12) + FLOAT_ERROR[32], dtype=np.float32)


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
