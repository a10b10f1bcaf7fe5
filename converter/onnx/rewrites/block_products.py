"""Products by weights in blocks of 4 or 8 bits, written as the operator that ONNX Runtime has for them.

`com.microsoft.MatMulNBits` reads weights `[out, blocks, bytes of a block]`; `com.microsoft.GatherBlockQuantized` looks
rows up in the same bytes, so that a table that is the output layer too is in the file once. Scales are stored in half
precision, and made wide by a `Cast` that runtimes fold when they load the file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.attention import DOMAIN
from converter.onnx.rewrites.products import Product, products_of, tables_of
from converter.onnx.rewrites.projections import bias_of, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits, a scale a row and block: the kernel that uses the CPU's integer instructions."""

BLOCK_SIZES = (16, 32, 64, 128, 256)
BLOCK_COST = 8
"""Bytes of weights that take about as long to read as a block's scale."""


def fitting_block(inputs: int, most: int, bits: int, *, looked_up: bool = False) -> int:
    """Return how many of `inputs` share a scale: at most `most`, and fewer where filling the last block costs more.

    `looked_up`: rows are, which must end with a block for that; where none fits, `most`.
    """
    sizes = [size for size in BLOCK_SIZES if size <= most]
    if looked_up:
        return max((size for size in sizes if inputs % size == 0), default=most)
    return min(sizes, key=lambda size: (-(-inputs // size) * (size * bits / 8 + BLOCK_COST), -size))


@dataclass(frozen=True)
class BlockWeights:
    """Weights `[out, in]` in blocks of inputs: `values` `[out, blocks, block]`, whole numbers around 0, and `scales`.

    Inputs that fill the last block are zero.
    """

    values: "NDArray[np.int8]"
    scales: "NDArray[np.float32]"
    """`[out, blocks]`."""
    bits: int
    inputs: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Outputs, blocks of each, weights of a block."""
        outputs, blocks, block = self.values.shape
        return outputs, blocks, block

    def packed(self) -> "NDArray[np.uint8]":
        """Return the bytes `[out, blocks, block * bits / 8]`: values above zero point, the first in the low half."""
        # In 8 bits the sum wraps around where it must: -128 becomes 0.
        raised = self.values.view(np.uint8) + np.uint8(1 << (self.bits - 1))
        if self.bits == 8:
            return raised
        return np.asarray(raised[..., 0::2] | (raised[..., 1::2] << 4), dtype=np.uint8)

    def of(self, outputs: slice) -> "BlockWeights":
        """Return the weights of some outputs."""
        return replace(self, values=self.values[outputs], scales=self.scales[outputs])

    def wide(self) -> "NDArray[np.float32]":
        """Return the weights `[out, in]` that these stand for."""
        made = self.values * self.scales[:, :, None]
        return np.asarray(made.reshape(len(made), -1)[:, : self.inputs], dtype=np.float32)


@dataclass(frozen=True)
class BlockFile:
    """`BlockWeights` whose packed values lie in a file of their own: those of a whole model would fill the memory."""

    path: Path
    shape: tuple[int, int, int]
    """Outputs, blocks of each, weights of a block."""
    scales: "NDArray[np.float32]"
    bits: int
    inputs: int

    @property
    def size(self) -> int:
        """Weights, those that fill the last block included."""
        return math.prod(self.shape)

    @classmethod
    def of(cls, made: BlockWeights, path: Path) -> "BlockFile":
        """Write the values to `path`, which must stay as long as they are asked for."""
        # Not by `tofile`, whose error does not say that the disk is full.
        path.write_bytes(made.packed().data)
        return cls(path, made.shape, made.scales, made.bits, made.inputs)

    def packed(self) -> "NDArray[np.uint8]":
        """Return the bytes `[out, blocks, block * bits / 8]`, read anew each time."""
        # Read, not mapped: a mapped page counts as this process's memory as long as the map lives.
        return np.fromfile(self.path, dtype=np.uint8).reshape(_packed_shape(self))

    def wide(self) -> "NDArray[np.float32]":
        """Return the weights `[out, in]` that these stand for."""
        packed = self.packed()
        if self.bits < 8:
            packed = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(self.shape)
        values = packed.astype(np.int16) - (1 << (self.bits - 1))
        return BlockWeights(values.astype(np.int8), self.scales, self.bits, self.inputs).wide()


Blocks = BlockWeights | BlockFile


def _packed_shape(made: Blocks) -> tuple[int, int, int]:
    outputs, blocks, block = made.shape
    return outputs, blocks, block * made.bits // 8


class StoredBlocks:
    """The initializers of one weight, made once for all that read it."""

    def __init__(self, graph: "ir.Graph", name: str, made: Blocks, *, looked_up: bool, multiplied: bool) -> None:
        import onnx_ir as ir

        self.made = made
        outputs, blocks, n_bytes = _packed_shape(made)
        rows = (outputs, blocks * n_bytes)
        self.bytes = _lazy_bytes(
            graph, made, f"{name}.int{made.bits}", (outputs, blocks, n_bytes) if multiplied else rows
        )
        """As products read them, `[out, blocks, bytes]`."""
        self.rows = self.bytes
        """As rows are looked up, `[out, bytes]`."""
        if looked_up and multiplied:
            shape = new_weight(graph, np.array(rows, dtype=np.int64), f"{name}.row_shape")
            self.rows = _first(graph, ir.node("Reshape", [self.bytes, shape], name=f"{name}.rows"))
        half = made.scales.astype(np.float16)
        if np.array_equal(half.astype(np.float32), made.scales):
            stored = new_weight(graph, half, f"{name}.scales_half")
            wide = {"to": int(ir.DataType.FLOAT)}
            self.scales = _first(graph, ir.node("Cast", [stored], wide, name=f"{name}.scales"))
        else:
            self.scales = new_weight(graph, made.scales, f"{name}.scales")


def _lazy_bytes(graph: "ir.Graph", made: Blocks, name: str, shape: tuple[int, ...]) -> "ir.Value":
    """Add the packed values to `graph`, asked for when they are written: those of all weights are not held at once."""
    import onnx_ir as ir

    def read() -> "ir.TensorProtocol":
        return ir.Tensor(made.packed().reshape(shape))

    kind = ir.DataType.UINT8
    value = ir.Value(name=name, const_value=ir.LazyTensor(read, dtype=kind, shape=ir.Shape(shape), name=name))
    value.type, value.shape = ir.TensorType(kind), ir.Shape(shape)
    graph.register_initializer(value)
    return value


def _first(graph: "ir.Graph", node: "ir.Node") -> "ir.Value":
    """Put what depends on weights alone before everything else."""
    node.outputs[0].name = node.name
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def write_block_products(model: "ir.Model", rounded: Mapping[str, Blocks]) -> None:
    """Rewrite, in place, the products and look-ups of every weight that `rounded` knows by name."""
    graph = model.graph
    products = [p for p in products_of(model) if p.weight_name in rounded]
    tables = {table: users for table, users in tables_of(model).items() if str(table.name) in rounded}
    values = {p.weight_name: p.stored for p in products} | {str(t.name): t for t in tables}
    multiplied, looked_up = {p.weight_name for p in products}, {str(t.name) for t in tables}
    stored = {
        name: StoredBlocks(graph, name, rounded[name], looked_up=name in looked_up, multiplied=name in multiplied)
        for name in values
    }
    for product in products:
        _multiply(graph, product, stored[product.weight_name])
    for table, users in tables.items():
        for node in users:
            _look_up(graph, node, stored[str(table.name)])
    for name, value in values.items():
        for node in [n for n in value.consumers() if n.op_type == "Transpose" and not n.outputs[0].uses()]:
            graph.remove(node, safe=True)
        if not value.uses():
            del graph.initializers[name]
    model.opset_imports[DOMAIN] = 1


def _multiply(graph: "ir.Graph", product: Product, weight: StoredBlocks) -> None:
    import onnx_ir as ir

    made, node = weight.made, product.node
    add, bias = bias_of(node)
    last = node if add is None else add
    attributes = {
        "K": made.inputs,
        "N": made.shape[0],
        "bits": made.bits,
        "block_size": made.shape[2],
        "accuracy_level": ACCURACY_LEVEL,
    }
    name = str(last.outputs[0].name)
    inputs = [product.given, weight.bytes, weight.scales, *([] if bias is None else [None, None, bias])]
    new = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=f"{name}_blocks")
    _take_over(graph, last, new, [node] if add is None else [add, node])


def _look_up(graph: "ir.Graph", node: "ir.Node", weight: StoredBlocks) -> None:
    import onnx_ir as ir

    made, name = weight.made, str(node.outputs[0].name)
    attributes = {"bits": made.bits, "block_size": made.shape[2], "gather_axis": 0, "quantize_axis": 1}
    inputs = [weight.rows, node.inputs[1], weight.scales]
    new = ir.node("GatherBlockQuantized", inputs, attributes, domain=DOMAIN, name=f"{name}_blocks")
    _take_over(graph, node, new, [node])


def _take_over(graph: "ir.Graph", last: "ir.Node", new: "ir.Node", gone: "list[ir.Node]") -> None:
    """Put `new` in the place of `last` and what led to it."""
    import onnx_ir as ir

    old, value = last.outputs[0], new.outputs[0]
    name = str(old.name)
    value.name, value.type, value.shape = f"{name}_new", old.type, old.shape
    graph.insert_before(last, new)
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    if value.is_graph_output():
        value.name, old.name = name, None
    graph.remove(gone, safe=True)
