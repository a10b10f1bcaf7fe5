"""Input channels of products weighed against each other without an operator: the norm before them is divided.

What a norm gives is multiplied by a vector in any case, and the products that read it have a row of weights a channel:
dividing the one by factors and multiplying the other by them changes nothing in float, and where weights are rounded
it decides which channels keep their digits (AWQ, arXiv 2306.00978).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.products import Product
from converter.onnx.rewrites.projections import bias_of, is_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


def foldable_groups(products: Sequence[Product]) -> list[list[Product]]:
    """Return the products that share an input whose maker can be divided, and whose weights serve them alone."""
    by_input: dict[ir.Value, list[Product]] = {}
    for product in products:
        by_input.setdefault(product.given, []).append(product)
    return [group for group in by_input.values() if _foldable(group)]


def fold_input_scales(graph: "ir.Graph", group: Sequence[Product], factors: "NDArray[np.float32]") -> None:
    """Divide what the products of `group` read by `factors` `[in]`, and multiply their weights by them."""
    _divide(graph, group[0].given, (1 / factors).astype(np.float32))
    for product in group:
        _scale(graph, product.node, 1, product.stored, factors[:, None])


def _foldable(group: "list[Product]") -> bool:
    own = {p.node for p in group}
    alone = all(not p.turned and set(p.stored.consumers()) <= own for p in group)
    value = group[0].given
    read_by_them = set(value.consumers()) <= own and not value.is_graph_output()
    return alone and read_by_them and _divisible(value) is not None


def _divisible(value: "ir.Value") -> "list[tuple[ir.Node, int]] | None":
    """Return the vectors, as node and number of its input, that divide `value` if they are divided; None: none do."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        places = [(node, i) for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None]
        return places if all(is_weight(n.inputs[i], rank=1) for n, i in places) else None
    if node.op_type == "Mul":
        vector = next((i for i, v in enumerate(node.inputs) if is_weight(v, rank=1)), None)
        if vector is not None:
            return [(node, vector)]
        # A gated layer: what the gate multiplies is a product of its own.
        for factor in node.inputs:
            found = _columns(factor)
            if found is not None:
                return found
    return None


def _columns(value: "ir.Value | None") -> "list[tuple[ir.Node, int]] | None":
    """Return the weights, and the bias, of the product that alone makes `value` for one reader."""
    node = None if value is None else value.producer()
    if value is None or node is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    product = node
    if node.op_type == "Add":
        product = next((m for v in node.inputs if v and (m := v.producer()) and m.op_type == "MatMul"), node)
    if product.op_type != "MatMul" or not is_weight(product.inputs[1], rank=2):
        return None
    weight = product.inputs[1]
    assert weight is not None
    if len(weight.uses()) != 1:
        return None
    if product is node:
        return [(product, 1)]
    add, bias = bias_of(product)
    place = None if add is not node else next((i for i, v in enumerate(node.inputs) if v is bias), None)
    return None if place is None else [(product, 1), (node, place)]


def _divide(graph: "ir.Graph", value: "ir.Value", inverse: "NDArray[np.float32]") -> None:
    for node, place in _divisible(value) or ():
        old = node.inputs[place]
        assert old is not None
        _scale(graph, node, place, old, inverse)


def _scale(graph: "ir.Graph", node: "ir.Node", place: int, old: "ir.Value", factors: "NDArray[np.float32]") -> None:
    """Let `node` read `old` times `factors`, computed when it is read: all at once would be the model again."""
    import onnx_ir as ir

    from converter.onnx.read import lazy_tensor

    tensor, name = old.const_value, f"{old.name}.scaled"
    assert tensor is not None
    made = ir.Value(name=name, const_value=lazy_tensor(lambda: tensor.numpy() * factors, tensor, name))
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.shape.numpy())
    graph.register_initializer(made)
    node.replace_input_with(place, made)
    if not old.uses():
        del graph.initializers[str(old.name)]
