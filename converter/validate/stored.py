"""A parameter as a shipped file stores it, brought back to float32: what `Target.parameters` yields."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["product", "table", "vector"]


@dataclass(frozen=True)
class Stored:
    """One weight of a shipped file.

    A `product` is `[in, out]` (columns are outputs), a `table` `[rows, width]`, a `vector` `[n]`.
    """

    name: str
    kind: Kind
    values: "NDArray[np.float32]"
    bits: int
    """That each value takes in the file: 32, 16, 8 or 4."""
    block: int = 0
    """Inputs of a product, or places of a row, that share a scale; 0: all of them."""
