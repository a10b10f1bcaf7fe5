"""How far two arrays are apart, over the range of the output that they belong to."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANGE_FLOOR = 1e-12
"""Least range that errors are told over: only keeps zero from being divided by."""
REPLAY_FLOOR = 1e-6
"""The same where float32 files are run again: an output that hardly varies has nothing but rounding."""

PART = 1 << 22
"""Values that are compared at a time: differences of all would take more memory than what is compared."""


def in_parts(
    found: "NDArray[np.float32]", wanted: "NDArray[np.float32]"
) -> "list[tuple[NDArray[np.float32], NDArray[np.float32]]]":
    """Return two arrays of one shape as views of some of their rows each; of other shapes, or empty: no part."""
    if found.shape != wanted.shape or not wanted.size:
        return []
    # All axes but the last are one: the first is often a batch of one text.
    one, other = (x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in (found, wanted))
    n = min(len(one), -(-wanted.size // PART))
    return list(zip(np.array_split(one, n), np.array_split(other, n), strict=True))


def relative_error(
    found: "NDArray[np.float32]", wanted: "NDArray[np.float32]", output_range: float, floor: float = RANGE_FLOOR
) -> float:
    """Return the largest difference over `output_range`; infinite where the shapes differ, NaN where a value is NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    errors = [np.abs(a.astype(np.float64) - b).max() for a, b in in_parts(found, wanted)]
    # Not the built-in max, which passes over NaN.
    return float(np.max(errors)) / max(output_range, floor) if errors else 0.0
