"""Which channels of an activation are divided, and by how much: searched per product on real tokens.

Three families of factors are tried, each over a grid: those of Outlier Suppression+ (arXiv 2304.09145), which touch
outliers alone, `max(1, max|x_j|/t)`; those of SmoothQuant (arXiv 2211.10438), `x_j^a / w_j^(1-a)`, with the geometric
mean of a channel's largest and typical value for `x_j`, which share all channels out between activation and weights;
and the first on top of the second, which balance what is typical and then cap what sticks out. What a candidate costs
is measured in the product's output, rounding of both sides included.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.onnx.quantize.errors import ProductInputs

THRESHOLDS = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
ALPHAS = (0.6, 0.7, 0.8)
BALANCED = ((0.5, 0.5, 0.7), (0.5, 0.5, 0.5), (0.5, 0.5, 0.35), (0.3, 0.7, 0.35), (0.25, 0.25, 0.5), (0.25, 0.25, 0.35))
"""Exponents of a channel's typical value and of its weights, and the threshold above."""
WEAKEST = 1 / 16
"""A factor is at least this part of the median one: what the calibration text never uses, other text may, and weights
that were made much smaller than those of other channels would all round to zero."""
WEIGHT_SHARE = 0.5
"""What `round_by_moments` leaves of the error of plain rounding on text that it has not seen, about."""


def search_factors(inputs: "ProductInputs", *, bounded: bool) -> "tuple[NDArray[np.float32], float]":
    """Return factors `[in]` and the share of the product's squared error that they leave (1: none are worth it)."""
    plain = _cost(inputs, bounded=bounded)
    best, least = np.ones(inputs.rows.shape[1], dtype=np.float32), plain
    for factors in _candidates(inputs):
        cost = _cost(inputs.scaled(factors), bounded=bounded)
        if cost < least:
            best, least = factors, cost
    return best, least / max(plain, 1e-30)


def _cost(inputs: "ProductInputs", *, bounded: bool) -> float:
    low, high = float(inputs.rows.min(initial=0)), float(inputs.rows.max(initial=0))
    return inputs.activation_error(low, high) + WEIGHT_SHARE * inputs.weight_error(bounded=bounded)


def _candidates(inputs: "ProductInputs") -> "list[NDArray[np.float32]]":
    largest = np.abs(inputs.rows).max(axis=0)
    top = float(largest.max(initial=0))
    if top <= 0:
        return []
    largest = np.maximum(largest, top * 1e-4)
    typical = np.maximum(np.sqrt(np.square(inputs.rows).mean(axis=0)), top * 1e-6)
    rows = np.sqrt(np.square(inputs.weight).mean(axis=1))
    rows = np.maximum(rows, max(float(rows.max(initial=0)) * 1e-4, 1e-12))
    outliers = [np.maximum(1, largest / (top * share)) for share in THRESHOLDS]
    shared = [(largest * typical) ** (a / 2) / rows ** (1 - a) for a in ALPHAS]
    capped = []
    for a, b, share in BALANCED:
        base = typical**a / rows**b
        capped.append(base * np.maximum(1, largest / base / (float((largest / base).max()) * share)))
    return [_usable(f) for f in (*outliers, *shared, *capped)]


def _usable(factors: "NDArray[Any]") -> "NDArray[np.float32]":
    # The common size of factors is of no effect; near 1 they keep both sides in float's good range.
    made = factors / np.exp(np.mean(np.log(factors)))
    return np.maximum(made, WEAKEST * np.median(made)).astype(np.float32)
