"""Keys and values that several heads share, as they are in the cache: not copied for every head at every token.

A group of heads that share keys asks them as if it were one head with as many more rows:
`[batch, heads, length, size]` is `[batch, groups, heads / groups * length, size]` in the same order.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import new_weight

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class _Copies:
    """A tensor `[batch, groups, past, size]` and the reshape that ends its copying to `[batch, heads, past, size]`."""

    shared: "ir.Value"
    last: "ir.Node"
    groups: int
    heads: int


def ask_shared_heads(model: "ir.Model") -> int:
    """Multiply queries by the shared keys, and weights by the shared values; returns how many products."""
    changed = 0
    for node in list(model.graph):
        copies = _copies(node)
        if copies is None:
            continue
        products = _products(copies)
        for product, turn in products:
            _group(model.graph, copies, product, turn)
        changed += len(products)
    return changed


def _copies(node: "ir.Node") -> _Copies | None:
    expand = _maker(node.inputs[0], "Expand") if node.op_type == "Reshape" else None
    unsqueeze = None if expand is None else _maker(expand.inputs[0], "Unsqueeze")
    if expand is None or unsqueeze is None:
        return None
    shared = unsqueeze.inputs[0]
    given, wide, made = (_dims(v) for v in (shared, expand.outputs[0], node.outputs[0]))
    if shared is None or len(given) != 4 or len(wide) != 5 or len(made) != 4:
        return None
    groups, heads = given[1], made[1]
    fits = isinstance(groups, int) and isinstance(wide[2], int) and heads == groups * wide[2]
    alike = (given[0], given[1], given[2], given[3]) == (wide[0], wide[1], wide[3], wide[4])
    return _Copies(shared, node, groups, heads) if fits and alike and made[2:] == given[2:] else None


def _products(copies: _Copies) -> "list[tuple[ir.Node, ir.Node | None]]":
    """Return what multiplies by the copies, each with the transpose before it; nothing if anything else reads them."""
    found: list[tuple[ir.Node, ir.Node | None]] = []
    for user in copies.last.outputs[0].consumers():
        turn = user if user.op_type == "Transpose" else None
        if turn is not None and list(turn.attributes["perm"].as_ints()) != [0, 1, 3, 2]:
            return []
        by = copies.last.outputs[0] if turn is None else turn.outputs[0]
        for product in [user] if turn is None else turn.outputs[0].consumers():
            rows, out = _dims(product.inputs[0]), _dims(product.outputs[0])
            fits = len(rows) == len(out) == 4 and rows[1] == out[1] == copies.heads
            if product.op_type != "MatMul" or product.inputs[1] is not by or not fits or _is_output(product):
                return []
            found.append((product, turn))
    return [] if copies.last.outputs[0].is_graph_output() else found


def _group(graph: "ir.Graph", copies: _Copies, product: "ir.Node", turn: "ir.Node | None") -> None:
    import onnx_ir as ir

    name = str(product.outputs[0].name)
    shape = product.outputs[0].shape
    # 0 copies the size at the same place: that of a head, or the number of keys.
    gather = ir.node("Reshape", [product.inputs[0], _shape(graph, copies.groups)], name=f"{name}_grouped")
    gather.outputs[0].name = f"{name}_grouped"
    before, by = [gather], copies.shared
    if turn is not None:
        turned = ir.node("Transpose", [copies.shared], {"perm": [0, 1, 3, 2]}, name=f"{name}_turned")
        turned.outputs[0].name = f"{name}_turned"
        before.append(turned)
        by = turned.outputs[0]
    graph.insert_before(product, before)
    product.replace_input_with(0, gather.outputs[0])
    product.replace_input_with(1, by)
    product.outputs[0].name, product.outputs[0].shape = f"{name}_of_groups", None
    users = list(product.outputs[0].uses())
    apart = ir.node("Reshape", [product.outputs[0], _shape(graph, copies.heads)], name=f"{name}_apart")
    apart.outputs[0].name, apart.outputs[0].shape, apart.outputs[0].type = name, shape, product.outputs[0].type
    graph.insert_after(product, apart)
    for use in users:
        use.node.replace_input_with(use.idx, apart.outputs[0])


def _shape(graph: "ir.Graph", count: int) -> "ir.Value":
    name = f"shape_0_{count}_rest_0"
    return graph.initializers.get(name) or new_weight(graph, np.array([0, count, -1, 0], dtype=np.int64), name)


def _is_output(node: "ir.Node") -> bool:
    return node.outputs[0].is_graph_output()


def _maker(value: "ir.Value | None", kind: str) -> "ir.Node | None":
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _dims(value: "ir.Value | None") -> tuple:
    return () if value is None or value.shape is None else tuple(value.shape.dims)
