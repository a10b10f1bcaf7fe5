"""Query, key and value (all linears of one input) as one matrix product.

One product of three times the width is faster than three, and dynamic quantization scales its input once, not thrice.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


def merge_projections(model: "ir.Model") -> int:
    """Merge `MatMul` + `Add` pairs of one input into one pair and a `Split`; returns how many groups were merged."""
    by_input: dict[ir.Value, list[tuple[ir.Node, ir.Node]]] = defaultdict(list)
    for node in model.graph:
        add = bias_behind(node)
        if add is not None and node.inputs[0] is not None:
            by_input[node.inputs[0]].append((node, add))
    groups = [pairs for pairs in by_input.values() if len(pairs) > 1]
    for pairs in groups:
        _merge(model.graph, pairs)
    return len(groups)


def bias_behind(node: "ir.Node") -> "ir.Node | None":
    """Return the bias `Add` behind a `MatMul` by constant weights `[in, out]`; None where `node` is no such thing."""
    if node.op_type != "MatMul" or not is_weight(node.inputs[1], rank=2) or is_weight(node.inputs[0]):
        return None
    add, _ = bias_of(node)
    return add if add is not None and not add.outputs[0].is_graph_output() else None


def bias_of(node: "ir.Node") -> "tuple[ir.Node | None, ir.Value | None]":
    """Return the `Add` of a constant vector that alone reads a product, and that vector; None and None without."""
    users = node.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None, None
    bias = next((v for v in users[0].inputs if v is not node.outputs[0]), None)
    return (users[0], bias) if is_weight(bias, rank=1) else (None, None)


def is_weight(value: "ir.Value | None", rank: int | None = None) -> bool:
    """Whether `value` is a constant held by the file, of `rank` dimensions where that is given."""
    if value is None or value.const_value is None or not value.is_initializer():
        return False
    return rank is None or len(value.const_value.shape) == rank


def _merge(graph: "ir.Graph", pairs: "list[tuple[ir.Node, ir.Node]]") -> None:
    import onnx_ir as ir

    weights = [tensor_of(matmul.inputs[1]) for matmul, _ in pairs]
    widths = [int(w.shape.numpy()[1]) for w in weights]
    biases = [array_of(next(v for v in add.inputs if is_weight(v))) for _, add in pairs]
    name = str(pairs[0][0].outputs[0].name)
    shape = (int(weights[0].shape.numpy()[0]), sum(widths))
    weight = later_weight(
        graph, lambda: np.concatenate([w.numpy() for w in weights], axis=1), weights[0].dtype, shape, f"{name}.weight"
    )
    bias = new_weight(graph, np.concatenate(biases), f"{name}.bias")
    sizes = new_weight(graph, np.array(widths, dtype=np.int64), f"{name}.sizes")
    product = ir.node("MatMul", [pairs[0][0].inputs[0], weight], name=f"{name}_merged")
    total = ir.node("Add", [product.outputs[0], bias], name=f"{name}_merged_bias")
    split = ir.node(
        "Split", [total.outputs[0], sizes], {"axis": -1}, num_outputs=len(pairs), name=f"{name}_merged_split"
    )
    for i, value in enumerate((product.outputs[0], total.outputs[0], *split.outputs)):
        value.name = f"{name}_merged_{i}"
    graph.insert_before(pairs[0][0], [product, total, split])
    for (matmul, add), made in zip(pairs, split.outputs, strict=True):
        made.type, made.shape = add.outputs[0].type, add.outputs[0].shape
        ir.convenience.replace_all_uses_with(add.outputs[0], made)
        graph.remove([matmul, add], safe=True)


def scalar_of(value: "ir.Value | None") -> float | None:
    """Return the one number that `value` holds; None where it is computed, or holds more."""
    if value is None or not is_weight(value):
        return None
    array = array_of(value)
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def tensor_of(value: "ir.Value | None") -> "ir.TensorProtocol":
    assert value is not None
    assert value.const_value is not None
    return value.const_value


def array_of(value: "ir.Value | None") -> "np.ndarray":
    return tensor_of(value).numpy()


def new_weight(graph: "ir.Graph", array: "np.ndarray", name: str) -> "ir.Value":
    """Add a constant to `graph`."""
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value


def later_weight(
    graph: "ir.Graph", make: "Callable[[], np.ndarray]", kind: "ir.DataType", shape: tuple[int, ...], name: str
) -> "ir.Value":
    """Add a constant that is made whenever it is asked for: those of all layers at once would be the model again."""
    import onnx_ir as ir

    tensor = ir.LazyTensor(lambda: ir.Tensor(make()), dtype=kind, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, const_value=tensor)
    value.type, value.shape = ir.TensorType(kind), ir.Shape(shape)
    graph.register_initializer(value)
    return value
