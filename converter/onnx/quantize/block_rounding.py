"""Weights rounded in blocks of inputs with a scale each: to nearest, with the scale of least error, or by moments."""

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.onnx.quantize.rounding import round_blocks_by_moments
from converter.onnx.rewrites.block_products import BlockWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIPPED = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of a block's largest weight that are tried as the end of its scale, on either side."""
PIECE = 1 << 18
"""Weights that are tried at once, as many as a processor's cache holds: a whole table would take twice the time, and
the memory of the model again."""
SMALLEST_SCALE = np.float32(2.0**-20)
"""Of weights that are all smaller nothing depends."""


def round_to_nearest(
    rows: "NDArray[np.float32]", bits: int, block: int, importance: "NDArray[np.float32] | None" = None
) -> BlockWeights:
    """Round weights `[out, in]` to `bits` in blocks of `block` inputs.

    In 4 bits the scale of each block is the one of least squared error of several that are tried, where `importance`
    `[in]` (the mean square of each input) says how much an error counts.
    """
    made = _blocks_of(rows, block)
    weights = None if importance is None else _blocks_of(importance[None], block)[0]
    step = max(1, PIECE // made[0].size)
    scales = np.concatenate([_scales(made[i : i + step], bits, weights) for i in range(0, len(made), step)])
    zero = 1 << (bits - 1)
    values = np.empty(made.shape, dtype=np.int8)
    for i in range(0, len(made), step):
        values[i : i + step] = np.clip(np.rint(made[i : i + step] / scales[i : i + step, :, None]), -zero, zero - 1)
    return BlockWeights(values, scales, bits, rows.shape[1])


def round_by_moments(
    rows: "NDArray[np.float32]", bits: int, block: int, moments: "NDArray[np.float32]"
) -> BlockWeights:
    """Round `[out, in]` one input after the other, its error made good by those that are left (GPTQ).

    `moments` `[in, in]` are the second moments of what the product reads.
    """
    plain = round_to_nearest(rows, bits, block, np.diag(moments).astype(np.float32))
    if rows.shape[1] % block:
        return plain
    zero = 1 << (bits - 1)
    values = round_blocks_by_moments(
        np.ascontiguousarray(rows.T), moments, np.ascontiguousarray(plain.scales.T), zero - 1, least=-zero
    )
    return BlockWeights(np.ascontiguousarray(values.T).reshape(plain.values.shape), plain.scales, bits, plain.inputs)


def _blocks_of(rows: "NDArray[np.float32]", block: int) -> "NDArray[np.float32]":
    """Return `[out, blocks, block]`, the last block filled with zeros."""
    missing = -rows.shape[1] % block
    filled = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return np.asarray(filled.reshape(len(rows), -1, block), dtype=np.float32)


def _scales(
    blocks: "NDArray[np.float32]", bits: int, importance: "NDArray[np.float32] | None"
) -> "NDArray[np.float32]":
    """Return the scale of each block, as half precision holds it where that keeps its digits."""
    zero = 1 << (bits - 1)
    largest = np.abs(blocks).max(axis=2)
    if bits == 8:
        return _stored(largest / (zero - 1))
    # The end of the scale with one more step is given to the side of the largest weight.
    place = np.abs(blocks).argmax(axis=2)[..., None]
    signed = np.take_along_axis(blocks, place, axis=2)[..., 0] / -zero
    best = _stored(largest / (zero - 1))
    least = _error(blocks, best, zero, importance)
    for share in CLIPPED:
        for tried in (signed * share, largest / (zero - 1) * share):
            scale = _stored(tried)
            error = _error(blocks, scale, zero, importance)
            better = error < least
            best, least = np.where(better, scale, best), np.where(better, error, least)
    return np.asarray(best, dtype=np.float32)


def _stored(scale: "NDArray[np.floating[Any]]") -> "NDArray[np.float32]":
    """Return scales as half precision holds them; those that it cannot hold make the file keep all of them wide."""
    found = np.where(scale == 0, np.float32(1), scale).astype(np.float32)
    if np.abs(found).max(initial=0) > np.finfo(np.float16).max:
        return found
    # Nearer to zero half precision has too few digits, and then none.
    found = np.where(np.abs(found) < SMALLEST_SCALE, np.copysign(SMALLEST_SCALE, found), found)
    return found.astype(np.float16).astype(np.float32)


def _error(
    blocks: "NDArray[np.float32]", scale: "NDArray[np.float32]", zero: int, importance: "NDArray[np.float32] | None"
) -> "NDArray[np.float32]":
    steps = blocks / scale[..., None]
    whole = np.rint(steps)
    steps -= np.clip(whole, -zero, zero - 1, out=whole)
    steps *= scale[..., None]
    np.square(steps, out=steps)
    if importance is not None:
        steps *= importance
    return np.asarray(steps.sum(axis=2), dtype=np.float32)
