"""Weights rounded one input after the other, each rounding's error made good by the inputs that are left.

GPTQ (arXiv 2210.17323), with the activations as the integer product sees them (quantized) in its second moments, and
with the bound on neighbouring weights that keeps 16-bit accumulators of old x86 from saturating
(`converter.onnx.rewrites.integer_products`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.integer_products import MAX_PAIR, IntegerWeights, round_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.1
"""Share of the mean second moment that is added to each. The usual 0.01 fits the calibration text, not the language:
with text of one kind all-MiniLM's products came out four times nearer, and its answers to other text further off than
after plain rounding (worst error 0.66 of the range instead of 0.10). On mixed text 0.1 had less error than 0.3 or 1."""
BLOCK = 128
LARGEST = 127
Rounded = Callable[[int, "NDArray[np.float32]", "NDArray[np.float32]"], "NDArray[np.float32]"]
"""Of an input's number, its weights as they are wanted now, and all that is rounded so far: its weights, rounded."""


def round_by_moments(
    weight: "NDArray[np.float32]", moments: "NDArray[np.float32]", *, bounded: bool = True
) -> IntegerWeights:
    """Round `[in, out]` weights given the second moments `[in, in]` of their input; scales are `round_weights`'s.

    A weight that is exactly zero was pruned: it takes over nobody's error, and stays zero.
    """
    plain = round_weights(weight, bounded=bounded)
    if bounded and len(weight) % 2:
        # The last input has no neighbour to be paired with.
        return plain
    order = _order(moments)
    left = (weight / plain.scales)[order].astype(np.float32)

    def rounded(i: int, wanted: "NDArray[np.float32]", made: "NDArray[np.float32]") -> "NDArray[np.float32]":
        # Inputs come in pairs of neighbours: the second of a pair leaves room for the first.
        return _nearest(wanted, made[i - 1] if bounded and i % 2 == 1 else None)

    values = np.empty(weight.shape, dtype=np.int8)
    values[order] = _rounded_in_turn(left, moments[np.ix_(order, order)], rounded)
    return IntegerWeights(values, plain.scales)


def round_blocks_by_moments(
    weight: "NDArray[np.float32]",
    moments: "NDArray[np.float32]",
    scales: "NDArray[np.float32]",
    largest: int,
    least: int | None = None,
) -> "NDArray[np.int8]":
    """Round `[in, out]` weights to whole multiples of `scales` `[blocks of inputs, out]`.

    The multiples are `least` (by default `-largest`) to `largest`.
    """
    order = _order(moments)
    lowest = -largest if least is None else least
    steps = np.repeat(scales, len(weight) // len(scales), axis=0)[order]

    def rounded(i: int, wanted: "NDArray[np.float32]", _: "NDArray[np.float32]") -> "NDArray[np.float32]":
        return np.asarray(np.clip(np.rint(wanted / steps[i]), lowest, largest) * steps[i], dtype=np.float32)

    made = _rounded_in_turn(weight[order].astype(np.float32), moments[np.ix_(order, order)], rounded)
    values = np.empty(weight.shape, dtype=np.int8)
    values[order] = np.rint(made / steps)
    return values


def _rounded_in_turn(
    left: "NDArray[np.float32]", moments: "NDArray[np.float32]", rounded: Rounded
) -> "NDArray[np.float32]":
    """Return `left` `[in, out]`, rounded input by input; what one loses is spread over those that follow."""
    factor = _inverse_factor(moments)
    stays = left != 0
    made = np.zeros_like(left)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        errors = np.zeros_like(left[start:end])
        for i in range(start, end):
            made[i] = np.where(stays[i], rounded(i, left[i], made), 0)
            error = (left[i] - made[i]) / factor[i, i]
            errors[i - start] = error
            left[i + 1 : end] -= np.outer(factor[i, i + 1 : end], error)
        left[end:] -= factor[start:end, end:].T @ errors
    return made


def _order(moments: "NDArray[np.float32]") -> "NDArray[np.int64]":
    """Return the inputs, pairs kept together, the strongest first: the weak ones are left to make good errors."""
    n = len(moments)
    power = np.diag(moments)
    if n % 2:
        return np.argsort(-power, kind="stable")
    pairs = np.argsort(-power.reshape(-1, 2).sum(axis=1), kind="stable")
    return np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)


def _nearest(wanted: "NDArray[np.float32]", before: "NDArray[np.float32] | None") -> "NDArray[np.float32]":
    """Round to whole numbers within ±127, and within what `before` leaves of `MAX_PAIR` to a neighbour of its sign."""
    if before is None:
        return np.clip(np.rint(wanted), -LARGEST, LARGEST)
    high = np.minimum(MAX_PAIR - np.maximum(before, 0), LARGEST)
    low = np.maximum(-MAX_PAIR - np.minimum(before, 0), -LARGEST)
    return np.clip(np.rint(wanted), low, high)


def _inverse_factor(moments: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return upper U with `U.T @ U` the inverse of the damped moments.

    With rows and columns reversed, the lower Cholesky factor L becomes an upper R with `R @ R.T` the moments, and
    U is the inverse of R: one factorization, one triangular inverse.
    """
    from scipy import linalg

    mean = max(float(np.mean(np.diag(moments))), 1e-12)
    damped = moments.astype(np.float64) / mean
    damped[np.diag_indices(len(damped))] += DAMPING
    lower = linalg.cholesky(damped[::-1, ::-1], lower=True, overwrite_a=True, check_finite=False)
    del damped
    inverse, _ = linalg.lapack.dtrtri(lower, lower=1, overwrite_c=1)
    return np.ascontiguousarray(inverse[::-1, ::-1], dtype=np.float32)
