"""Products by constant weights as models that write text have them: also by an embedding table that is turned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight
from converter.onnx.rewrites.sites import MIN_OUTPUTS

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Product:
    """A `MatMul` of an activation `[..., in]` by weights that the file stores as `[in, out]`, or turned."""

    node: "ir.Node"
    stored: "ir.Value"
    turned: bool
    """Stored as `[out, in]`, as an embedding table is."""

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def weight_name(self) -> str:
        return str(self.stored.name)

    @property
    def given(self) -> "ir.Value":
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        assert self.stored.const_value is not None
        first, second = self.stored.const_value.shape.numpy()
        return (second, first) if self.turned else (first, second)

    def rows(self) -> "np.ndarray":
        """Return the weights `[out, in]`, read from where they are."""
        array = array_of(self.stored)
        return array if self.turned else np.ascontiguousarray(array.T)


def products_of(model: "ir.Model") -> list[Product]:
    """Return the large products by constant weights, in graph order."""
    found = []
    for node in model.graph:
        if node.op_type != "MatMul" or is_weight(node.inputs[0]):
            continue
        made = product_at(node)
        if made is not None and made.shape[1] >= MIN_OUTPUTS:
            found.append(made)
    return found


def product_at(node: "ir.Node") -> Product | None:
    """Return a `MatMul` as a product by constant weights; None where it is none."""
    weight = node.inputs[1]
    if weight is None:
        return None
    if is_weight(weight, rank=2):
        return Product(node, weight, turned=False)
    turn = weight.producer()
    table = turn.inputs[0] if turn is not None and turn.op_type == "Transpose" else None
    return Product(node, table, turned=True) if table is not None and is_weight(table, rank=2) else None


def tables_of(model: "ir.Model") -> "dict[ir.Value, list[ir.Node]]":
    """Return the tables `[rows, width]` of which rows are looked up, with the nodes that do it."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        axis = node.attributes.get("axis")
        table = node.inputs[0] if node.op_type == "Gather" and (axis is None or axis.as_int() == 0) else None
        if table is not None and is_weight(table, rank=2):
            found.setdefault(table, []).append(node)
    return found
