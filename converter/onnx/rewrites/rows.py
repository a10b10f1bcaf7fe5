"""Only the tokens that are read: a classifier reads one token of its last layer, so that one alone is computed there.

In the last layer nothing but `[CLS]`'s query, its row of the scores and its feed-forward block can reach a classifier's
answer; keys and values are still needed of every token. The choice of the token is therefore moved up through all that
works on each token by itself. Of six MiniLM layers this leaves the work of 5.2, and the answer is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import is_weight, new_weight, scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir

POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Pow", "Neg", "Where", "Cast", "Identity"})
ACTIVATIONS = frozenset({"Erf", "Exp", "Gelu", "HardSwish", "Relu", "Sigmoid", "Sqrt", "Tanh"})
"""With `POINTWISE`: operators whose every number comes from the same place of their inputs."""
LAST_AXIS = frozenset({"LayerNormalization", "RMSNormalization", "Softmax"})
"""Operators that mix nothing but their `axis`, the last one."""


@dataclass(frozen=True)
class ReadRow:
    """Place `index` along `axis` is all that is read of a value."""

    axis: int
    index: int


def keep_read_rows(model: "ir.Model") -> int:
    """Compute single tokens where only they are read; returns how many nodes work on one token now.

    The shapes must be those that the exporter wrote: call it before anything removes them.
    """
    reads: dict[tuple[ir.Node, int], ReadRow] = {}
    narrowed: dict[ir.Node, ReadRow] = {}
    for node in reversed(list(model.graph)):
        row = _read_of(node.outputs[0], reads)
        asked = _choice(node) if row is None else _asked(node, row)
        reads |= {(node, i): r for i, r in asked.items()}
        if row is not None and asked:
            narrowed[node] = row
    for node, row in narrowed.items():
        if node.op_type == "Reshape":
            _narrow_reshape(model.graph, node, row)
    sliced: dict[tuple[ir.Value, ReadRow], ir.Value] = {}
    for (node, i), row in reads.items():
        value = node.inputs[i]
        assert value is not None
        if value.producer() in narrowed:
            _renumber(model.graph, node, i)
        elif node in narrowed:
            node.replace_input_with(i, _slice(model.graph, value, row, sliced))
    return len(narrowed)


def with_shapes(model: "ir.Model") -> str:
    """Return what is missing where the exporter's shapes are gone; empty where they are there."""
    values = [v for n in model.graph for v in n.outputs]
    # Some operators of every export have none; all of them, once they were removed.
    return "" if not values or any(v.shape is not None for v in values) else "the shapes between operators are gone"


def _read_of(value: "ir.Value", reads: "Mapping[tuple[ir.Node, int], ReadRow]") -> ReadRow | None:
    """Return the row that every user of `value` reads; None where they differ, or any reads more."""
    rows = {reads.get((use.node, use.idx)) for use in value.uses()}
    return rows.pop() if len(rows) == 1 and not value.is_graph_output() else None


def _choice(node: "ir.Node") -> dict[int, ReadRow]:
    """Return what a `Gather` of one constant place reads of its input."""
    index = scalar_of(node.inputs[1]) if node.op_type == "Gather" and node.domain == "" else None
    given = node.inputs[0] if index is not None else None
    if index is None or index < 0 or given is None or given.shape is None or given.const_value is not None:
        return {}
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    # The batch is no choice of a token, and what is chosen of the last axis is a channel.
    return {0: ReadRow(axis, int(index))} if 0 < axis < len(given.shape) - 1 else {}


def _asked(node: "ir.Node", row: ReadRow) -> dict[int, ReadRow]:
    """Return what must be read of each input for `row` of the output; empty where `node` mixes rows."""
    shape = node.outputs[0].shape
    if node.domain != "" or len(node.outputs) > 1 or shape is None or any(v and v.shape is None for v in node.inputs):
        return {}
    if node.op_type in POINTWISE | ACTIVATIONS and not _is_shared_projection(node):
        return _of_broadcast(node, row, len(shape))
    axis = _axis_read(node, row.axis, len(shape))
    return {} if axis is None else {0: ReadRow(axis, row.index)}


def _axis_read(node: "ir.Node", axis: int, rank: int) -> int | None:
    """Return the axis of the first input along which one place makes one place of the output's `axis`."""
    if node.op_type in LAST_AXIS:
        mixed = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return axis if mixed in {-1, rank - 1} and axis < rank - 1 else None
    if node.op_type == "MatMul" and not _is_shared_projection(node):
        return _rank(node, 0) - 2 if axis == rank - 2 and _rank(node, 0) >= 2 else None
    if node.op_type == "Transpose" and "perm" in node.attributes:
        return node.attributes["perm"].as_ints()[axis]
    return axis if node.op_type == "Reshape" and _keeps(node, axis) else None


def _is_shared_projection(node: "ir.Node") -> bool:
    """Whether `node` is a product, or its bias, that all layers share and that is merged with others of its input.

    ALBERT's last layer would need the merged weights of keys and values beside those of all three.
    """
    if node.op_type == "Add":
        makers = [v.producer() for v in node.inputs if v is not None]
        return any(m is not None and m.op_type == "MatMul" and _is_shared_projection(m) for m in makers)
    if node.op_type != "MatMul" or not is_weight(node.inputs[1], rank=2):
        return False
    given, weight = node.inputs[:2]
    assert given is not None
    assert weight is not None
    siblings = [n for n in given.consumers() if n.op_type == "MatMul"]
    return len(weight.consumers()) > 1 and len(siblings) > 1


def _of_broadcast(node: "ir.Node", row: ReadRow, rank: int) -> dict[int, ReadRow]:
    asked = {}
    for i, value in enumerate(node.inputs):
        axis = row.axis - (rank - _rank(node, i))
        if value is not None and axis >= 0 and value.shape is not None and value.shape[axis] != 1:
            asked[i] = ReadRow(axis, row.index)
    return asked


def _rank(node: "ir.Node", i: int) -> int:
    value = node.inputs[i]
    return len(value.shape) if value is not None and value.shape is not None else 0


def _keeps(reshape: "ir.Node", axis: int) -> bool:
    """Whether `reshape` leaves all dimensions up to `axis` as they are, and the others are known."""
    given, made = reshape.inputs[0], reshape.outputs[0]
    assert given is not None
    assert given.shape is not None
    assert made.shape is not None
    kept = [str(d) for d in made.shape[: axis + 1]] == [str(d) for d in given.shape[: axis + 1]]
    return kept and all(isinstance(d, int) for d in made.shape[axis + 1 :])


def _narrow_reshape(graph: "ir.Graph", node: "ir.Node", row: ReadRow) -> None:
    made = node.outputs[0]
    assert made.shape is not None
    # In a Reshape, 0 stands for the input's dimension at that place, unless `allowzero` takes it literally.
    node.attributes.pop("allowzero", None)
    dims = [0] * row.axis + [1] + [int(str(d)) for d in made.shape[row.axis + 1 :]]
    node.replace_input_with(1, new_weight(graph, np.array(dims, dtype=np.int64), f"{made.name}.one_row"))


def _renumber(graph: "ir.Graph", node: "ir.Node", i: int) -> None:
    """Let a choice take place 0: its input holds nothing else any more."""
    if node.op_type == "Gather" and i == 0 and scalar_of(node.inputs[1]) != 0:
        first = new_weight(graph, np.array(0, dtype=np.int64), f"{node.outputs[0].name}.first")
        node.replace_input_with(1, first)


def _slice(
    graph: "ir.Graph", value: "ir.Value", row: ReadRow, made: "dict[tuple[ir.Value, ReadRow], ir.Value]"
) -> "ir.Value":
    """Return the one row of `value`, sliced where `value` is made."""
    import onnx_ir as ir

    if (value, row) in made:
        return made[value, row]
    name = f"{value.name}_row_{row.axis}_{row.index}"
    places = {"start": row.index, "end": row.index + 1, "axis": row.axis}
    limits = [new_weight(graph, np.array([n], dtype=np.int64), f"{name}.{what}") for what, n in places.items()]
    node = ir.node("Slice", [value, *limits], name=name)
    node.outputs[0].name = name
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    made[value, row] = node.outputs[0]
    return node.outputs[0]
