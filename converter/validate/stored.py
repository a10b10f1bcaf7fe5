"""A parameter as a shipped file stores it, brought back to float32: what `Target.parameters` yields."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["product", "table", "vector", "bias"]


@dataclass(frozen=True)
class Stored:
    """One weight of a shipped file.

    A `product` is `[in, out]` (columns are outputs), a `table` `[rows, width]`, a `vector` `[n]`. A `bias` is a vector
    in whole numbers, in the steps of its product: it has no sum of its own in a sealed package (`stored_sums`).
    """

    name: str
    kind: Kind
    values: "NDArray[np.float32]"
    bits: int
    """That each value takes in the file: 32, 16, 8 or 4."""
    block: int = 0
    """Inputs of a product, or places of a row, that share a scale; 0: all of them."""


def as_float32(values: "NDArray[Any]") -> "NDArray[np.float32]":
    """Return numbers of any float type in float32: themselves where they are in it."""
    return np.asarray(values, dtype=np.float32)


def digest_of(one: Stored) -> bytes:
    """Return what two weights have in common that are equal in shape, bits and every value."""
    turned = one.values.T if one.values.flags.f_contiguous else one.values
    made = hashlib.sha1(np.ascontiguousarray(turned).data, usedforsecurity=False)
    made.update(repr((one.values.shape, turned is one.values, one.bits)).encode())
    return made.digest()
