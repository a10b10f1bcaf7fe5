"""A high percentile of values that come in parts: of two hundred million of them the highest two million are kept."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Highest:
    """What the share `share` (0..1) of `n` values does not exceed: one of them, as numpy's `inverted_cdf` picks it."""

    def __init__(self, n: int, share: float) -> None:
        self._keep = n - max(0, int(np.ceil(n * share - 1)))
        self._n = n
        self._kept: NDArray[np.float64] = np.zeros(0)

    def add(self, values: "NDArray[np.float64]") -> None:
        """Take some of the values, of any shape."""
        every = np.concatenate([self._kept, values.ravel()])
        low = len(every) - self._keep
        self._kept = np.partition(every, low)[low:].copy() if low > 0 else every
        self._n -= values.size

    def value(self) -> float:
        """Return the percentile.

        Raises:
            ValueError: more or fewer than `n` values were added, or none.

        """
        if self._n or not len(self._kept):
            raise ValueError("a percentile of other values than were announced")
        return float(self._kept.min())
