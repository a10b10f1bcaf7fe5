"""What rounding does to a product: errors of its output, not of the tensors that go in.

Outputs are looked at through a few random directions (`E‖e·P‖² = ‖e‖²` for P of unit normal columns), so that ranges
and factors can be tried by the dozen.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.onnx.rewrites.integer_products import round_weights, step_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIRECTIONS = 48
CLIPPING = 4.0
"""How much worse an error of clipping is than one of rounding: it is alike in all tokens, and adds up."""


@dataclass(frozen=True)
class ProductInputs:
    """Tokens `[n, in]`, the weights `[in, out]` that read them, and both as the directions see them."""

    rows: "NDArray[np.float32]"
    weight: "NDArray[np.float32]"
    directions: "NDArray[np.float32]"
    """`[out, DIRECTIONS]`."""
    importance: "NDArray[np.float32]"
    """`[n]`: the weight of each token's squared error; over all outputs, a lost product has error 1."""

    @classmethod
    def of(cls, rows: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> "ProductInputs":
        random = np.random.default_rng(0)
        directions = random.standard_normal((weight.shape[1], DIRECTIONS)).astype(np.float32)
        power = float(np.square(rows @ (weight @ directions)).sum(dtype=np.float64))
        return cls(rows, weight, directions, np.full(len(rows), 1 / max(power, 1e-30), dtype=np.float32))

    def scaled(self, factors: "NDArray[np.float32]") -> "ProductInputs":
        """Return the same product with channels of the tokens divided, and rows of the weights multiplied."""
        weight = (self.weight * factors[:, None]).astype(np.float32)
        return ProductInputs((self.rows / factors).astype(np.float32), weight, self.directions, self.importance)

    def activation_error(self, low: float, high: float) -> float:
        """Return the share of the output that rounding the tokens to 8 bits over `[low, high]` costs."""
        return self.error_of_ranges([(low, high)])[0]

    def error_of_ranges(self, ranges: "list[tuple[float, float]]") -> list[float]:
        """Return `activation_error` of several ranges."""
        through = self.weight @ self.directions
        made = []
        for low, high in ranges:
            clipped = np.clip(self.rows, low, high)
            rounding = self._share((round_rows(self.rows, low, high) - clipped) @ through)
            made.append(rounding + CLIPPING * self._share((clipped - self.rows) @ through))
        return made

    def weight_error(self, *, bounded: bool) -> float:
        """Return the share of the output that plain rounding of the weights costs."""
        made = round_weights(self.weight, bounded=bounded)
        return self._share(self.rows @ ((made.values * made.scales - self.weight) @ self.directions))

    def _share(self, errors: "NDArray[np.floating[Any]]") -> float:
        return float(np.square(errors).sum(axis=1) @ self.importance)


def token_importance(outputs: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return the weight of each token's squared error: one over its own output and the mean token's, half each."""
    if not len(outputs):
        return np.zeros(0, dtype=np.float32)
    power = np.square(outputs).sum(axis=1, dtype=np.float64)
    mean = max(float(power.mean()), 1e-30)
    return (2 / (power + mean) / len(power)).astype(np.float32)


def round_rows(rows: "NDArray[np.float32]", low: float, high: float) -> "NDArray[np.float32]":
    """Return the tokens as 256 steps over `[low, high]` hold them."""
    scale, zero = step_of(low, high)
    steps = np.rint(rows / scale)
    np.clip(steps, -float(zero), 255 - float(zero), out=steps)
    steps *= scale
    return np.asarray(steps, dtype=np.float32)
