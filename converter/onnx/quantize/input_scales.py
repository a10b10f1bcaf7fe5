"""Which input channels of a product keep more of their digits when its weights are rounded: searched on real tokens."""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.quantize.block_rounding import round_to_nearest
from converter.resources import made_in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPONENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WORTH = 0.98
"""Factors must leave at most this share of the squared error."""


def search_input_scales(
    rows: "NDArray[np.float32]", weights: "list[NDArray[np.float32]]", bits: int, block: int
) -> "tuple[NDArray[np.float32], float]":
    """Return factors `[in]` and the share of the products' squared error that they leave (1: none are worth it).

    `rows` `[n, in]` is what all products read, `weights` `[out, in]` those of each. Factors are powers of a channel's
    mean size (AWQ, arXiv 2306.00978).
    """
    typical = np.abs(rows).mean(axis=0)
    typical = np.maximum(typical, max(float(typical.max(initial=0)) * 1e-4, 1e-12))
    moments = np.asarray((rows.T @ rows) / max(len(rows), 1), dtype=np.float32)
    plain = _error(weights, np.ones_like(typical), moments, bits, block)
    best, least = np.ones_like(typical), plain

    def tried(exponent: float) -> "tuple[NDArray[np.float32], float]":
        factors = typical**exponent
        factors = (factors / np.sqrt(factors.max() * factors.min())).astype(np.float32)
        return factors, _error(weights, factors, moments, bits, block)

    for factors, error in made_in_threads(tried, EXPONENTS):
        if error < least:
            best, least = factors, error
    ratio = least / max(plain, 1e-30)
    return (best, ratio) if ratio <= WORTH else (np.ones_like(typical), 1.0)


def _error(
    weights: "list[NDArray[np.float32]]",
    factors: "NDArray[np.float32]",
    moments: "NDArray[np.float32]",
    bits: int,
    block: int,
) -> float:
    total = 0.0
    importance = np.diag(moments) / np.square(factors)
    for weight in weights:
        # Some of the outputs tell as much as all of them.
        some = weight[:: max(1, len(weight) // 512)]
        made = round_to_nearest(some * factors, bits, block, importance.astype(np.float32)).wide() / factors
        change = made - some
        total += float(np.einsum("oi,oi->", change @ moments, change)) * len(weight) / len(some)
    return total
