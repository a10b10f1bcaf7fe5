"""Reshapes that a graph does without: those around products of flattened rows, and shapes worked out at every call.

A decoder is called once a token, for rows so small that every operator around the products counts.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import bias_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir

    Dims = tuple[int | ir.SymbolicDim, ...]


def products_of_rows(model: "ir.Model") -> int:
    """Multiply `[batch, sequence, width]` where rows were flattened before and unfolded after; returns how many.

    GPT-2's layers are written that way, with two reshapes a product.
    """
    changed = 0
    for node in list(model.graph):
        if node.op_type == "Reshape" and _flattens(node):
            chains = [_chain(user) for user in node.outputs[0].consumers()]
            if chains and all(chains):
                _keep_rows(model.graph, node, chains)
                changed += len(chains)
    return changed


def constant_shapes(model: "ir.Model") -> int:
    """Reshape to a constant where all but copied sizes are numbers, and not at all to what is there already.

    In a target 0 copies the size at the same place, so that neither batch nor length need be asked for. Returns how
    many reshapes were changed.
    """
    import onnx_ir as ir

    made: dict[tuple[int, ...], ir.Value] = {}
    changed = 0
    for node in [n for n in model.graph if n.op_type == "Reshape"]:
        source = node.inputs[0]
        given, after = _dims(source), _dims(node.outputs[0])
        same = given is not None and given == after and _all_known(given)
        if source is not None and same and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            model.graph.remove(node, safe=True)
            changed += 1
        elif not is_weight(node.inputs[1]) and (target := _target(given, after)) is not None:
            if target not in made:
                made[target] = _target_value(model.graph, target)
            node.replace_input_with(1, made[target])
            node.attributes.pop("allowzero", None)
            changed += 1
    return changed


def _target(given: "Dims | None", made: "Dims | None") -> tuple[int, ...] | None:
    """Return the constant that reshapes `given` to `made`; None where more than one size would be worked out."""
    if given is None or made is None or 0 in made:
        return None
    target = []
    for i, size in enumerate(made):
        if isinstance(size, int):
            target.append(size)
        else:
            target.append(0 if i < len(given) and given[i] == size and size.value is not None else -1)
    return tuple(target) if target.count(-1) <= 1 else None


def _target_value(graph: "ir.Graph", target: tuple[int, ...]) -> "ir.Value":
    name = "shape_" + "_".join(str(n) if n >= 0 else "rest" for n in target)
    return graph.initializers.get(name) or new_weight(graph, np.array(target, dtype=np.int64), name)


def _all_known(dims: "Dims") -> bool:
    return all(isinstance(d, int) or d.value is not None for d in dims)


def _flattens(node: "ir.Node") -> bool:
    """Tell whether `[batch, sequence, …]` becomes `[batch * sequence, width]`."""
    given, made = _dims(node.inputs[0]), _dims(node.outputs[0])
    if given is None or made is None or len(given) < 3 or len(made) != 2:
        return False
    own = [d for d in given[2:] if isinstance(d, int)]
    return len(own) == len(given) - 2 and made[1] == int(np.prod(own)) and not isinstance(given[0], int)


def _chain(product: "ir.Node") -> "list[ir.Node]":
    """Return a product by a constant matrix, its bias if there is one, and the reshape behind; nothing otherwise."""
    if product.op_type != "MatMul" or not is_weight(product.inputs[1], rank=2):
        return []
    add, _ = bias_of(product)
    last = product if add is None else add
    users = last.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Reshape" or last.outputs[0].is_graph_output():
        return []
    return [product, *([] if add is None else [add]), users[0]]


def _keep_rows(graph: "ir.Graph", flatten: "ir.Node", chains: "list[list[ir.Node]]") -> None:
    """Let the first reshape keep batch and sequence; those behind the products are then told to change nothing."""
    import onnx_ir as ir

    given, made = _dims(flatten.inputs[0]), _dims(flatten.outputs[0])
    assert given is not None
    assert made is not None
    width = made[1]
    assert isinstance(width, int), "`_flattens` asks for it"
    flatten.replace_input_with(1, _target_value(graph, (0, 0, width)))
    flatten.attributes.pop("allowzero", None)
    for value in (flatten.outputs[0], *(n.outputs[0] for chain in chains for n in chain[:-1])):
        own = (_dims(value) or [None])[-1]
        value.shape = ir.Shape([given[0], given[1], own])


def _dims(value: "ir.Value | None") -> "Dims | None":
    return None if value is None or value.shape is None else tuple(value.shape.dims)
