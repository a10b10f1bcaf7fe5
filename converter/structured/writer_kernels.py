"""Small ONNX graphs of the sublayers of models that write text: one token behind a cache, or a prompt at once."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from converter.onnx.rewrites.block_products import fitting_block
from converter.structured.kernels import MS, Chain, Dimensions

WriterProducts = Literal["int8", "int4", "dynamic", "float"]
"""Products as packages have them: weights in blocks of 8 or 4 bits, int8 with rounded activations, or float32."""
BLOCK = 128
"""Inputs that share a scale at most."""
Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True)
class WriterDimensions(Dimensions):
    """What the time of a sublayer depends on; a head is a group of queries that share a key and a value."""

    key_dim: int = 64
    """Width of a key; `head_dim` is that of all queries of a group."""
    crosses: bool = False
    """A decoder's layer attends to what an encoder read, too."""


class WriterChain(Chain):
    """A graph that grows at its end; values are float32 `[1, length, hidden]`.

    `behind`: positions of the cache, and of the text that an encoder read; 0 for a prompt, which is read at once.
    """

    dimensions: WriterDimensions

    def __init__(self, dimensions: WriterDimensions, products: WriterProducts, behind: int) -> None:
        super().__init__(dimensions, "dynamic" if products == "dynamic" else "float")
        self.dimensions, self.bits, self.behind = dimensions, {"int8": 8, "int4": 4}.get(products, 0), behind

    def attention(self, n_heads: int) -> None:
        """Add an attention of the tokens to themselves and to the cache, and that to an encoder's text."""
        size, given = self.dimensions, self.last
        wide, narrow = n_heads * size.head_dim, n_heads * size.key_dim
        query, key, value = (self._product(given, size.hidden, n) for n in (wide, narrow, narrow))
        sides = [self._in_heads(side, n_heads) for side in (key, value)]
        if self.behind:
            sides = [self._one("Concat", [self._known(n_heads), side], {"axis": 2}) for side in sides]
        self._look(query, sides[0], sides[1], n_heads, given)
        if size.crosses and self.behind:
            given = self.last
            query = self._product(given, size.hidden, wide)
            self._look(query, self._known(n_heads), self._known(n_heads), n_heads, given)

    def cross_keys(self, n_heads: int) -> None:
        """Add what a prompt costs in a decoder behind an encoder: the keys and values that its layer looks at."""
        size = self.dimensions
        made = [self._product(self.last, size.hidden, n_heads * size.key_dim) for _ in range(2)]
        total = self._binary("Add", *made)
        self.last = self._summed_up(total)

    def output(self) -> None:
        """Add the output layer, of all words."""
        self.last = self._product(self.last, self.dimensions.hidden, self.dimensions.embeddings)

    def inputs(self) -> list[Any]:
        return super().inputs()[:1]  # the stream

    def _summed_up(self, total: str) -> str:
        """Return the stream, which `total` cannot be dropped from."""
        one = self._one("ReduceMean", [total, self._weight(np.array([-1], dtype=np.int64))], {"keepdims": 1})
        return self._binary("Add", self.last, one)

    def _look(self, query: str, key: str, value: str, n_heads: int, residual: str) -> None:
        """Add an attention of queries `[1, length, heads * queries * size]` to keys `[1, heads, positions, size]`."""
        size = self.dimensions
        # The queries of a group lie beside each other, so that keys are not repeated.
        apart = self._weight(np.array([1, -1, n_heads, size.head_dim], dtype=np.int64))
        split = self._one("Transpose", [self._one("Reshape", [query, apart])], {"perm": [0, 2, 1, 3]})
        rows = self._one("Reshape", [split, self._weight(np.array([1, n_heads, -1, size.key_dim], dtype=np.int64))])
        turned = self._one("Transpose", [key], {"perm": [0, 1, 3, 2]})
        scores = self._binary("Mul", self._binary("MatMul", rows, turned), self._weight(np.array(0.125, np.float32)))
        made = self._binary("MatMul", self._one("Softmax", [scores], {"axis": -1}), value)
        joined = self._one("Reshape", [made, self._weight(np.array([1, n_heads, -1, size.head_dim], dtype=np.int64))])
        back = self._one("Transpose", [joined], {"perm": [0, 2, 1, 3]})
        wide = n_heads * size.head_dim
        flat = self._one("Reshape", [back, self._weight(np.array([1, -1, wide], dtype=np.int64))])
        self._summed(self._product(flat, wide, size.hidden), residual)

    def _in_heads(self, side: str, n_heads: int) -> str:
        apart = self._weight(np.array([1, -1, n_heads, self.dimensions.key_dim], dtype=np.int64))
        return self._one("Transpose", [self._one("Reshape", [side, apart])], {"perm": [0, 2, 1, 3]})

    def _known(self, n_heads: int) -> str:
        return self._weight(self._floats(1, n_heads, self.behind, self.dimensions.key_dim))

    def _product(self, given: str, n_inputs: int, n_outputs: int) -> str:
        if not self.bits:
            return super()._product(given, n_inputs, n_outputs)
        block = fitting_block(n_inputs, BLOCK, self.bits)
        blocks = -(-n_inputs // block)
        codes = self._random.integers(0, 255, (n_outputs, blocks, block * self.bits // 8), dtype=np.uint8)
        sizes = {"K": n_inputs, "N": n_outputs, "bits": self.bits, "block_size": block, "accuracy_level": 4}
        inputs = [given, self._weight(codes), self._weight(self._floats(n_outputs * blocks))]
        return self._one("MatMulNBits", inputs, sizes, MS)

    def _smoothed(self, given: str, width: int) -> str:
        return given  # of width `width`: nothing is smoothed in models that write text
