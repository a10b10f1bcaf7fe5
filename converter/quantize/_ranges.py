"""The range of a tensor over any amount of text, in bounded memory."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 4096
TAIL = 1e-5
"""The share of values that `percentile` leaves out at each end (99.999 %)."""
SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the full range that `mse` tries."""

RangeMethod = Literal["minmax", "percentile", "mse"]


class RunningRange:
    """Least and largest value, and a histogram that doubles its reach (halving its resolution) when it must."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._reach = 0.0
        self._counts = np.zeros(BINS, dtype=np.float64)

    def observe(self, values: "NDArray[np.float32]") -> None:
        """Take in some more values; NaN and infinities are refused."""
        if not np.isfinite(values).all():
            raise ValueError("an activation is not finite")
        largest = float(np.abs(values).max(initial=0.0))
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if self._reach == 0.0:
            self._reach = max(largest, 1e-6)
        while largest > self._reach:
            # Two old bins are one new bin; the histogram spans -reach to reach.
            halved = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.concatenate([np.zeros(BINS // 4), halved, np.zeros(BINS // 4)])
            self._reach *= 2
        found, _ = np.histogram(values, bins=BINS, range=(-self._reach, self._reach))
        self._counts += found

    def choose(self, method: RangeMethod) -> tuple[float, float]:
        """Return the range to spend 255 steps on; it always holds zero."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if method == "percentile":
            low, high = self._percentile(low, high)
        elif method == "mse":
            low, high = self._least_error(low, high)
        return low, max(high, low + 1e-6)

    @property
    def _centers(self) -> "NDArray[Any]":
        width = 2 * self._reach / BINS
        return -self._reach + width * (np.arange(BINS) + 0.5)

    def _percentile(self, low: float, high: float) -> tuple[float, float]:
        share = np.cumsum(self._counts) / self._counts.sum()
        edges = np.linspace(-self._reach, self._reach, BINS + 1)
        first, last = int(np.searchsorted(share, TAIL)), int(np.searchsorted(share, 1 - TAIL))
        return max(low, min(0.0, edges[first])), min(high, max(0.0, edges[min(last + 1, BINS)]))

    def _least_error(self, low: float, high: float) -> tuple[float, float]:
        """Balance what clipping loses against the rounding of a finer step; each end is shrunk by itself."""
        centers, share = self._centers, self._counts / self._counts.sum()

        def error(a: float, b: float) -> float:
            clipped = np.square(np.clip(centers, a, b) - centers) @ share
            return float(clipped + ((b - a) / 255) ** 2 / 12)

        for _ in range(2):
            high = min((high * s for s in SHRINKS), key=lambda b: error(low, b)) if high > 0 else high
            low = min((low * s for s in SHRINKS), key=lambda a: error(a, high)) if low < 0 else low
        return low, high
