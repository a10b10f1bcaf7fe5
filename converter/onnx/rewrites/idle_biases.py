"""Biases inside attention that need not be computed.

A bias on the keys adds one number to all scores of a query, which softmax takes off again. A bias on the values passes
through the mixing unchanged, as a query's shares sum to 1, and can be added behind the output projection as well as
before it: `b_o + b_v W_o`. Both are exact; the products of int8 files then add nothing.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.attention import attentions
from converter.onnx.rewrites.projections import array_of, bias_behind, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir


def drop_idle_biases(model: "ir.Model") -> int:
    """Set the biases of keys to zero, and those of values, where they can be moved; returns how many are zero now."""
    zeroed = 0
    for match in attentions(model, read_elsewhere=True):
        key, value, output = _bias_add(match.key), _bias_add(match.value), _output(match.made)
        if key is not None:
            _replace(model.graph, key, np.zeros_like(_bias(key)))
            zeroed += 1
        if value is not None and output is not None:
            product, total = output
            # Row by row in float64: a product of BLAS is rounded by where its numbers lie in memory.
            rows = _bias(value).astype(np.float64)[:, None] * array_of(product.inputs[1])
            moved = np.add.reduce(rows, axis=0)
            _replace(model.graph, total, (_bias(total) + moved).astype(np.float32))
            _replace(model.graph, value, np.zeros_like(_bias(value)))
            zeroed += 1
    return zeroed


def _bias_add(value: "ir.Value") -> "ir.Node | None":
    """Return the `Add` of a constant that makes `value`, if attention alone reads it."""
    node = value.producer()
    alone = node is not None and node.op_type == "Add" and _read_once(value)
    return node if alone and node is not None and any(is_weight(v, rank=1) for v in node.inputs) else None


def _read_once(value: "ir.Value") -> bool:
    """Whether nothing but one product reads a value, cut into heads or whole: layers may rank tokens by values too."""
    users = value.consumers()
    if len(users) != 1 or value.is_graph_output():
        return False
    return users[0].op_type not in {"Reshape", "Transpose"} or _read_once(users[0].outputs[0])


def _output(made: "ir.Value") -> "tuple[ir.Node, ir.Node] | None":
    """Return the product, and the `Add` of its bias, that alone reads what attention makes."""
    users = made.consumers()
    add = bias_behind(users[0]) if len(users) == 1 and users[0].inputs[0] is made else None
    return (users[0], add) if add is not None else None


def _bias(add: "ir.Node") -> "np.ndarray":
    return array_of(next(v for v in add.inputs if is_weight(v, rank=1)))


def _replace(graph: "ir.Graph", add: "ir.Node", array: "np.ndarray") -> None:
    i = next(i for i, v in enumerate(add.inputs) if is_weight(v, rank=1))
    old = add.inputs[i]
    assert old is not None
    add.replace_input_with(i, new_weight(graph, array, f"{add.outputs[0].name}.bias"))
    if not old.uses():
        del graph.initializers[str(old.name)]
