"""Many projections of one input, split into heads together: one `Reshape` and one `Transpose` for all of them.

A translator's decoder makes the cross keys and values of all layers from one product. They are split, reshaped and
turned one by one at every token, though only the first makes any.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST = 3
"""With fewer parts nothing is saved."""


@dataclass(frozen=True)
class _Parts:
    """A `Split` along the last axis, the heads and head size of each part, and what each ends in."""

    split: "ir.Node"
    heads: int
    size: int
    turned: "list[ir.Node]"


def split_heads_together(model: "ir.Model") -> int:
    """Put the split into parts behind the split into heads; returns how many were."""
    found = [parts for node in model.graph if (parts := _parts(node)) is not None]
    for parts in found:
        _join(model.graph, parts)
    return len(found)


def _parts(node: "ir.Node") -> _Parts | None:
    axis = node.attributes.get("axis")
    if node.op_type != "Split" or axis is None or axis.as_int() != -1 or len(node.outputs) < LEAST:
        return None
    turned, shapes = [], set()
    for value in node.outputs:
        reshape = _only_user(value, "Reshape")
        turn = None if reshape is None else _only_user(reshape.outputs[0], "Transpose")
        if reshape is None or turn is None or not is_weight(reshape.inputs[1], rank=1) or _copies_nothing(reshape):
            return None
        if list(turn.attributes["perm"].as_ints()) != [0, 2, 1, 3]:
            return None
        turned.append(turn)
        shapes.add(tuple(array_of(reshape.inputs[1]).tolist()))
    shape = shapes.pop()
    if shapes or len(shape) != 4 or shape[:2] != (0, 0) or min(shape[2:]) < 1 or not _equal(node, shape[2] * shape[3]):
        return None
    return _Parts(node, shape[2], shape[3], turned)


def _equal(split: "ir.Node", width: int) -> bool:
    """Whether every part is of one width."""
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    return is_weight(sizes, rank=1) and set(array_of(sizes).tolist()) == {width}


def _copies_nothing(reshape: "ir.Node") -> bool:
    """Whether a 0 in the shape is a size, not the one at its place."""
    allowed = reshape.attributes.get("allowzero")
    return allowed is not None and allowed.as_int() != 0


def _join(graph: "ir.Graph", parts: _Parts) -> None:
    import onnx_ir as ir

    name, count = str(parts.split.name), len(parts.turned)
    shape = new_weight(graph, np.array([0, 0, count * parts.heads, parts.size], dtype=np.int64), f"{name}.heads_shape")
    sizes = new_weight(graph, np.full(count, parts.heads, dtype=np.int64), f"{name}.heads_sizes")
    apart = ir.node("Reshape", [parts.split.inputs[0], shape], name=f"{name}_heads")
    turn = ir.node("Transpose", [apart.outputs[0]], {"perm": [0, 2, 1, 3]}, name=f"{name}_heads_turned")
    split = ir.node("Split", [turn.outputs[0], sizes], {"axis": 1}, num_outputs=count, name=f"{name}_heads_split")
    for i, value in enumerate((apart.outputs[0], turn.outputs[0], *split.outputs)):
        value.name = f"{name}_heads_{i}"
    graph.insert_before(parts.split, [apart, turn, split])
    for old, made in zip(parts.turned, split.outputs, strict=True):
        value = old.outputs[0]
        made.type, made.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, made)
    reshapes = [value.consumers()[0] for value in parts.split.outputs]
    graph.remove([*parts.turned, *reshapes, parts.split], safe=True)


def _only_user(value: "ir.Value", kind: str) -> "ir.Node | None":
    users = value.consumers()
    fits = len(users) == 1 and users[0].op_type == kind and not value.is_graph_output()
    return users[0] if fits and not users[0].outputs[0].is_graph_output() else None
