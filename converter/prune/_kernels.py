"""Small ONNX graphs of single sublayers, with the operators that packages are made of: to time, not to ship."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Products = Literal["static", "dynamic", "float"]
MS = "com.microsoft"


@dataclass(frozen=True)
class Dimensions:
    """What the time of a sublayer depends on besides its width."""

    hidden: int
    head_dim: int
    ffn_blocks: int = 1
    """2 where the FFN is gated."""
    embeddings: int = 30000


class Chain:
    """A graph that grows at its end; values are float32 `[1, length, hidden]`."""

    def __init__(self, dimensions: Dimensions, products: Products) -> None:
        self.dimensions, self.products = dimensions, products
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = "stream"
        self._count = 0
        self._random = np.random.default_rng(0)

    def attention(self, n_heads: int) -> None:
        h, d = self.dimensions.hidden, self.dimensions.head_dim * n_heads
        residual = self.last
        fused = self._product(self._smoothed(self.last, h), h, 3 * d)
        sizes = self._weight(np.array([d, d, d], dtype=np.int64))
        q, k, v = (self._name() for _ in range(3))
        self._node("Split", [fused, sizes], [q, k, v], attributes={"axis": -1})
        made = self._name()
        given = [q, k, v, "", "padding"]
        self._node("MultiHeadAttention", given, [made], MS, {"num_heads": n_heads, "scale": 0.125})
        self._summed(self._product(made, d, h), residual)

    def ffn(self, n_neurons: int) -> None:
        h, blocks = self.dimensions.hidden, self.dimensions.ffn_blocks
        residual = self.last
        wide = self._product(self._smoothed(self.last, h), h, blocks * n_neurons)
        if blocks > 1:
            parts = [self._name() for _ in range(blocks)]
            sizes = self._weight(np.array([n_neurons] * blocks, dtype=np.int64))
            self._node("Split", [wide, sizes], parts, attributes={"axis": -1})
            wide = self._binary("Mul", self._gelu(parts[0]), parts[1])
        else:
            wide = self._gelu(wide)
        self._summed(self._product(self._smoothed(wide, n_neurons), n_neurons, h), residual)

    def bias_only(self) -> None:
        """Add a sublayer that has lost all of its units."""
        self._summed(self._weight(self._floats(self.dimensions.hidden)), self.last)

    def embeddings(self) -> None:
        """Put the embeddings before everything and a dense layer of one token behind it."""
        h = self.dimensions.hidden
        rows: str = ""
        for n_rows in (self.dimensions.embeddings, 512):
            table, scale, shown = self._embedding(n_rows), self._weight(self._floats(n_rows, 1)), self._name()
            self._node("Gather", [scale, "ids"], [shown])
            found = self._binary("Mul", table, shown)
            rows = found if not rows else self._binary("Add", rows, found)
        self.last = rows
        self._summed(self._weight(self._floats(h)), rows)
        first = self._name()
        self._node("Gather", [self.last, self._weight(np.array([0], dtype=np.int64))], [first], attributes={"axis": 1})
        self.last = self._binary("MatMul", first, self._weight(self._floats(h, h)))

    def model(self) -> bytes:
        """Return the graph as a file's bytes."""
        from onnx import TensorProto, helper

        shape = [1, "length", self.dimensions.hidden]
        graph = helper.make_graph(
            self.nodes,
            "sublayers",
            [
                helper.make_tensor_value_info("stream", TensorProto.FLOAT, shape),
                helper.make_tensor_value_info("padding", TensorProto.INT32, [1, "length"]),
                helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "length"]),
            ],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return made

    def _embedding(self, n_rows: int) -> str:
        table = self._weight(self._integers(n_rows, self.dimensions.hidden))
        rows, made = self._name(), self._name()
        self._node("Gather", [table, "ids"], [rows])
        self._node("Cast", [rows], [made], attributes={"to": 1})
        return made

    def _product(self, given: str, n_inputs: int, n_outputs: int) -> str:
        bias = self._weight(self._floats(n_outputs))
        if self.products == "float":
            weight = self._weight(self._floats(n_inputs, n_outputs))
            return self._binary("Add", self._binary("MatMul", given, weight), bias)
        rounded, scale, zero = self._rounded(given)
        weight, scales = self._weight(self._integers(n_inputs, n_outputs)), self._weight(self._floats(n_outputs))
        made = self._name()
        inputs = [rounded, weight, scale, scales, zero, "", bias]
        self._node("MatMulIntegerToFloat", inputs, [made], domain=MS)
        return made

    def _rounded(self, given: str) -> tuple[str, str, str]:
        if self.products == "dynamic":
            names = self._name(), self._name(), self._name()
            self._node("DynamicQuantizeLinear", [given], list(names))
            return names
        scale, zero = self._weight(np.array(0.02, np.float32)), self._weight(np.array(128, np.uint8))
        made = self._name()
        self._node("QuantizeLinear", [given, scale, zero], [made])
        return made, scale, zero

    def _smoothed(self, given: str, width: int) -> str:
        return given if self.products == "float" else self._binary("Mul", given, self._weight(self._floats(width)))

    def _gelu(self, given: str) -> str:
        root, one, half = (self._weight(np.array(v, np.float32)) for v in (2**0.5, 1.0, 0.5))
        made = self._name()
        self._node("Erf", [self._binary("Div", given, root)], [made])
        return self._binary("Mul", self._binary("Mul", given, self._binary("Add", made, one)), half)

    def _summed(self, output: str, residual: str) -> None:
        total, self.last = self._name(), self._name()
        self._node("Sum", [output, residual], [total])
        gamma, beta = (self._weight(self._floats(self.dimensions.hidden)) for _ in range(2))
        self._node("LayerNormalization", [total, gamma, beta], [self.last], attributes={"axis": -1, "epsilon": 1e-12})

    def _binary(self, op: str, left: str, right: str) -> str:
        made = self._name()
        self._node(op, [left, right], [made])
        return made

    def _node(
        self,
        op: str,
        inputs: list[str],
        outputs: list[str],
        domain: str = "",
        attributes: "Mapping[str, Any] | None" = None,
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
