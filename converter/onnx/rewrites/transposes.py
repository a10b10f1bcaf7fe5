"""Transposed weights, worked out once: what is left of them where several layers share one weight.

The exporter folds the transpose of a weight that one product reads. Of a shared weight (ALBERT, tied layers)
it leaves a `Transpose` before every product: no product is then seen to be one by a constant, and none becomes int8.
"""

from typing import TYPE_CHECKING

from converter.onnx.rewrites.projections import is_weight

if TYPE_CHECKING:
    import onnx_ir as ir


def fold_transposes(model: "ir.Model") -> int:
    """Replace every `Transpose` of a weight matrix by one new weight for all its readers; returns how many went."""
    import onnx_ir as ir

    made: dict[str, ir.Value] = {}
    gone = 0
    for node in [n for n in model.graph if _turns_weight(n)]:
        weight = node.inputs[0]
        assert weight is not None
        name = str(weight.name)
        if name not in made:
            made[name] = _transposed(model.graph, weight, f"{name}.transposed")
        ir.convenience.replace_all_uses_with(node.outputs[0], made[name], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        gone += 1
        if not weight.uses():
            del model.graph.initializers[name]
    return gone


def without_transposed_weights(model: "ir.Model") -> str:
    """Return what is wrong where a weight matrix is still transposed at every call; empty where none is."""
    left = [n for n in model.graph if _turns_weight(n)]
    return f"{len(left)} transposed weights" if left else ""


def _turns_weight(node: "ir.Node") -> bool:
    return node.op_type == "Transpose" and is_weight(node.inputs[0], rank=2) and not _keeps_order(node)


def _keeps_order(node: "ir.Node") -> bool:
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints()) == [0, 1]


def _transposed(graph: "ir.Graph", weight: "ir.Value", name: str) -> "ir.Value":
    """Add the weight turned, computed when it is written: all at once would be the model again."""
    import onnx_ir as ir

    tensor = weight.const_value
    assert tensor is not None
    shape = ir.Shape(tensor.shape.numpy()[::-1])
    made = ir.Value(
        name=name,
        const_value=ir.LazyTensor(
            lambda: ir.Tensor(tensor.numpy().T.copy()), dtype=tensor.dtype, shape=shape, name=name
        ),
    )
    made.type, made.shape = ir.TensorType(tensor.dtype), shape
    graph.register_initializer(made)
    return made
