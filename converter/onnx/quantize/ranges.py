"""The range of a tensor that 256 steps are spent on."""

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.onnx.quantize.errors import ProductInputs

TAIL = 1e-5
"""The share of values that `percentile` leaves out at each end (99.999 %)."""
SHRINKS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7, 0.63, 0.56, 0.48, 0.4)
"""Shares of the full range that `mse` tries."""
SMALL_END = 0.08
"""An end this much smaller than the other (GELU's) is not worth shrinking."""

RangeMethod = Literal["minmax", "percentile", "mse"]


def choose_range(
    method: RangeMethod, extremes: "tuple[NDArray[np.float32], NDArray[np.float32]]", inputs: "ProductInputs"
) -> tuple[float, float]:
    """Return the range; it always holds zero, and never exceeds what was seen (`extremes`, by channel).

    `mse` balances what clipping loses against the rounding of a finer step, in the outputs of the products that read
    the tensor; each end is shrunk by itself.
    """
    low, high = min(float(extremes[0].min()), 0.0), max(float(extremes[1].max()), 0.0)
    if method == "percentile":
        tails = np.quantile(inputs.rows, (TAIL, 1 - TAIL))
        low, high = max(low, min(float(tails[0]), 0.0)), min(high, max(float(tails[1]), 0.0))
    elif method == "mse":
        low, high = _least_error(low, high, inputs)
    return low, max(high, low + 1e-6)


def _least_error(low: float, high: float, inputs: "ProductInputs") -> tuple[float, float]:
    for _ in range(2):
        if high > -low * SMALL_END:
            highs = [high * s for s in SHRINKS]
            high = highs[int(np.argmin(inputs.error_of_ranges([(low, h) for h in highs])))]
        if -low > high * SMALL_END:
            lows = [low * s for s in SHRINKS]
            low = lows[int(np.argmin(inputs.error_of_ranges([(x, high) for x in lows])))]
    return low, high
