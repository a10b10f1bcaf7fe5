"""Small ONNX graphs of single sublayers, with the operators that packages are made of: to time, not to ship.

What `converter.onnx.rewrites` and `converter.quantize` make of a layer of BERT is written out here; a test holds the
two to the same operators. Other families differ in details (relative positions, gates) that hardly depend on the width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Products = Literal["static", "dynamic", "float"]
MS = "com.microsoft"
SCALE = 0.125
POSITIONS = 512


@dataclass(frozen=True)
class Dimensions:
    """What the time of a sublayer depends on besides its width."""

    hidden: int
    head_dim: int
    ffn_blocks: int = 1
    """2 where the FFN is gated."""
    embeddings: int = 30000
    layers: int = 6
    one_token: bool = False
    """Of the last layer one token alone is read."""


class Chain:
    """A graph that grows at its end; values are float32 `[length, 1, hidden]`, or `[1, length, hidden]` in float."""

    def __init__(self, dimensions: Dimensions, products: Products) -> None:
        self.dimensions, self.products = dimensions, products
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last, self.mask, self.mask_of_one = "stream", "mask", "mask_of_one"
        self._count = 0
        self._random = np.random.default_rng(0)

    def attention(self, n_heads: int) -> None:
        """Add an attention of all tokens."""
        given = self._smoothed(self.last, self.dimensions.hidden)
        n = self.dimensions.head_dim * n_heads
        self._attend(self._projections(given, (n, n, n)), n_heads, self.mask, self.last)

    def attention_of_one(self, n_heads: int) -> None:
        """Add an attention of the first token: it looks at all of them."""
        h, n, given = self.dimensions.hidden, self.dimensions.head_dim * n_heads, self.last
        first = self._first(given)
        query = self._product(self._smoothed(first, h), h, n)
        sides = self._projections(self._smoothed(given, h), (n, n))
        self._attend([query, *sides], n_heads, self.mask_of_one, first)

    def ffn(self, n_neurons: int) -> None:
        h, blocks = self.dimensions.hidden, self.dimensions.ffn_blocks
        residual = self.last
        wide = self._product(self._smoothed(self.last, h), h, blocks * n_neurons)
        if blocks > 1:
            parts = self._parts(wide, [n_neurons] * blocks)
            wide = self._binary("Mul", self._gelu(parts[0]), parts[1])
        else:
            wide = self._gelu(wide)
        self._summed(self._product(self._smoothed(wide, n_neurons), n_neurons, h), residual)

    def bias_only(self) -> None:
        """Add a sublayer that has lost all of its units."""
        self._summed(self._weight(self._floats(self.dimensions.hidden)), self.last)

    def first_token(self) -> None:
        """Go on with the first token alone."""
        self.last = self._first(self.last)

    def side_by_side(self, made: Sequence[str]) -> None:
        """Go on with the sum of values that were made apart."""
        self.last = self._one("Sum", made)

    def embeddings(self) -> None:
        """Begin with words and padding, as a package does."""
        count = self._one("Shape", ["kinds"], {"start": 1, "end": 2})
        start, one = (self._weight(np.array([n], dtype=np.int64)) for n in (0, 1))
        all_places = self._weight(np.arange(POSITIONS, dtype=np.int64)[None])
        places = self._embedding(POSITIONS, self._one("Slice", [all_places, start, count, one, one]))
        words = self._embedding(self.dimensions.embeddings, "ids")
        kinds = self._one("Gather", [self._weight(self._floats(2, self.dimensions.hidden)), "kinds"])
        self.side_by_side([self._binary("Add", words, kinds), places])
        self._normalized(self.last)
        self.mask, self.mask_of_one = self._masks()
        if self.products != "float":
            self.last = self._one("Transpose", [self.last], {"perm": [1, 0, 2]})

    def head(self) -> None:
        """Add a dense layer and a classifier of one token."""
        h = self.dimensions.hidden
        dense = self._one("Tanh", [self._product(self._smoothed(self._first(self.last), h), h, h)])
        product = self._binary("MatMul", dense, self._weight(self._floats(h, 2)))
        self.last = self._binary("Add", product, self._weight(self._floats(2)))

    def model(self) -> bytes:
        """Return the graph as a file's bytes."""
        from onnx import TensorProto, helper

        outputs = [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "sublayers", self.inputs(), outputs, self.weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return made

    def inputs(self) -> list[Any]:
        """Return what the graph takes."""
        from onnx import TensorProto, helper

        return [
            helper.make_tensor_value_info("stream", TensorProto.FLOAT, [None, None, self.dimensions.hidden]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, None, None]),
            helper.make_tensor_value_info("mask_of_one", TensorProto.FLOAT, [1, 1, 1, None]),
            helper.make_tensor_value_info("padding", TensorProto.INT64, [1, None]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, None]),
            helper.make_tensor_value_info("kinds", TensorProto.INT64, [1, None]),
        ]

    def _attend(self, sides: Sequence[str], n_heads: int, mask: str, residual: str) -> None:
        h, d = self.dimensions.hidden, self.dimensions.head_dim * n_heads
        apart = self._weight(np.array([0, 0, n_heads, -1], dtype=np.int64))
        heads = [self._one("Reshape", [v, apart]) for v in sides]
        if self.products == "float":
            orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
            query, key, value = (self._one("Transpose", [v], {"perm": p}) for v, p in zip(heads, orders, strict=True))
            scores = self._binary("Mul", self._binary("MatMul", query, key), self._weight(np.array(SCALE, np.float32)))
        else:
            query, key, value = heads
            moved = {"transBatchA": 1, "transBatchB": 1, "transB": 1, "alpha": SCALE}
            scores = self._one("FusedMatMul", [query, key], moved, MS)
        shares = self._one("Softmax", [self._binary("Add", scores, mask)], {"axis": -1})
        if self.products == "float":
            back = self._one("Transpose", [self._binary("MatMul", shares, value)], {"perm": [0, 2, 1, 3]})
        else:
            mixed = self._one("FusedMatMul", [shares, value], {"transBatchB": 1}, MS)
            back = self._one("Transpose", [mixed], {"perm": [2, 0, 1, 3]})
        joined = self._one("Reshape", [back, self._weight(np.array([0, 0, -1], dtype=np.int64))])
        self._summed(self._product(joined, d, h), residual)

    def _first(self, given: str) -> str:
        axis = 1 if self.products == "float" else 0
        limits = [self._weight(np.array([n], dtype=np.int64)) for n in (0, 1, axis)]
        return self._one("Slice", [given, *limits])

    def _masks(self) -> tuple[str, str]:
        """Make of the padding what is added to scores: of all tokens, and of one."""
        hidden = self._binary("Sub", self._one("Cast", ["padding"], {"to": 1}), self._weight(np.array(1, np.float32)))
        sides = []
        for factor, axes in ((1e9, [1, 2]), (0, [1, 3])):
            spread = self._binary("Mul", hidden, self._weight(np.array(factor, np.float32)))
            sides.append(self._one("Unsqueeze", [spread, self._weight(np.array(axes, dtype=np.int64))]))
        return self._binary("Add", *sides), sides[0]

    def _embedding(self, n_rows: int, ids: str) -> str:
        table = self._weight(self._integers(n_rows, self.dimensions.hidden))
        scales = self._weight(self._integers(n_rows, 1))
        rows = self._one("Cast", [self._one("Gather", [table, ids])], {"to": 1})
        scale = self._one("Gather", [scales, ids])
        return self._binary(
            "Mul", rows, self._one("DequantizeLinear", [scale, self._weight(np.array(0.02, np.float32))])
        )

    def _projections(self, given: str, widths: Sequence[int]) -> list[str]:
        """Multiply one input by several weights: apart, where one rounding of it serves all; merged in float."""
        h = self.dimensions.hidden
        if self.products != "float":
            rounded = self._rounded(given)
            return [self._integer_product(rounded, h, n) for n in widths]
        return self._parts(self._product(given, h, sum(widths)), widths)

    def _parts(self, given: str, widths: Sequence[int]) -> list[str]:
        made = [self._name() for _ in widths]
        self._node("Split", [given, self._weight(np.array(widths, dtype=np.int64))], made, {"axis": -1})
        return made

    def _product(self, given: str, n_inputs: int, n_outputs: int) -> str:
        if self.products != "float":
            return self._integer_product(self._rounded(given), n_inputs, n_outputs)
        product = self._binary("MatMul", given, self._weight(self._floats(n_inputs, n_outputs)))
        return self._binary("Add", product, self._weight(self._floats(n_outputs)))

    def _integer_product(self, rounded: tuple[str, str, str], n_inputs: int, n_outputs: int) -> str:
        given, scale, zero = rounded
        weight, scales = self._weight(self._integers(n_inputs, n_outputs)), self._weight(self._floats(n_outputs))
        bias = self._weight(self._floats(n_outputs))
        return self._one("MatMulIntegerToFloat", [given, weight, scale, scales, zero, "", bias], domain=MS)

    def _rounded(self, given: str) -> tuple[str, str, str]:
        if self.products == "dynamic":
            names = self._name(), self._name(), self._name()
            self._node("DynamicQuantizeLinear", [given], list(names))
            return names
        scale, zero = self._weight(np.array(0.02, np.float32)), self._weight(np.array(128, np.uint8))
        return self._one("QuantizeLinear", [given, scale, zero]), scale, zero

    def _smoothed(self, given: str, width: int) -> str:
        return given if self.products == "float" else self._binary("Mul", given, self._weight(self._floats(width)))

    def _gelu(self, given: str) -> str:
        root, one, half = (self._weight(np.array(v, np.float32)) for v in (2**0.5, 1.0, 0.5))
        bent = self._one("Erf", [self._binary("Div", given, root)])
        return self._binary("Mul", self._binary("Mul", given, self._binary("Add", bent, one)), half)

    def _summed(self, output: str, residual: str) -> None:
        self._normalized(self._one("Sum", [output, residual]))

    def _normalized(self, total: str) -> None:
        gamma, beta = (self._weight(self._floats(self.dimensions.hidden)) for _ in range(2))
        self.last = self._one("LayerNormalization", [total, gamma, beta], {"axis": -1, "epsilon": 1e-12})

    def _binary(self, op: str, left: str, right: str) -> str:
        return self._one(op, [left, right])

    def _one(
        self, op: str, inputs: Sequence[str], attributes: "Mapping[str, Any] | None" = None, domain: str = ""
    ) -> str:
        """Add a node of one output; returns its name."""
        made = self._name()
        self._node(op, inputs, [made], attributes, domain)
        return made

    def _node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: "Mapping[str, Any] | None" = None,
        domain: str = "",
    ) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **(attributes or {})))

    def _weight(self, values: "NDArray[Any]") -> str:
        from onnx import numpy_helper

        name = self._name()
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _floats(self, *shape: int) -> "NDArray[np.float32]":
        # Small and never denormal: the time must be that of ordinary numbers.
        return (0.02 * self._random.standard_normal(shape) + 0.01).astype(np.float32)

    def _integers(self, *shape: int) -> "NDArray[np.int8]":
        return self._random.integers(-127, 127, shape, dtype=np.int8)
