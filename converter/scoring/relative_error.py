"""How far two arrays are apart, over the range of the output that they belong to."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGE_FLOOR = 1e-12
"""Least range that errors are told over: only keeps zero from being divided by."""
REPLAY_FLOOR = 1e-6
"""The same where float32 files are run again: an output that hardly varies has nothing but rounding."""


def relative_error(
    found: "NDArray[np.float32]", wanted: "NDArray[np.float32]", output_range: float, floor: float = RANGE_FLOOR
) -> float:
    """Return the largest difference over `output_range`; infinite where the shapes differ, NaN where a value is NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max()) / max(output_range, floor) if wanted.size else 0.0
