"""Layer normalization without the reshapes that lowering leaves in it: in a short text every operation is felt."""

import copy
from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import constant, inputs_of, is_kind, outputs_of, shape_of

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator


def keep_axes(model: "Model", graph: "Graph") -> int:
    """Let a mean keep the axis that a `RESHAPE` behind it puts back; returns how many of those are gone."""
    takers: dict[int, list[Operator | None]] = {int(t): [None] for t in graph.outputs}
    for op in graph.operators:
        for tensor in inputs_of(op):
            takers.setdefault(tensor, []).append(op)
    gone: dict[int, int] = {}
    for op in graph.operators:
        if not is_kind(op, "MEAN", model) or op.builtinOptions.keepDims:
            continue
        add = _only(takers, op)
        if not is_kind(add, "ADD", model):
            continue
        back = _only(takers, add)
        if not is_kind(back, "RESHAPE", model) or not _puts_back(model, graph, op, back):
            continue
        op.builtinOptions = copy.copy(op.builtinOptions)
        op.builtinOptions.keepDims = True
        for tensor in (outputs_of(op)[0], outputs_of(add)[0]):
            graph.tensors[tensor].shape = graph.tensors[outputs_of(back)[0]].shape
        gone[outputs_of(back)[0]] = outputs_of(add)[0]
    graph.operators = [op for op in graph.operators if not set(outputs_of(op)) & gone.keys()]
    for op in graph.operators:
        op.inputs = np.array([gone.get(t, t) for t in inputs_of(op)], np.int32)
    return len(gone)


def _only(takers: "dict[int, list[Operator | None]]", op: "Operator") -> "Operator | None":
    """Return the operation that alone takes what `op` makes."""
    found = takers.get(outputs_of(op)[0], [])
    return found[0] if len(found) == 1 else None


def _puts_back(model: "Model", graph: "Graph", mean: "Operator", back: "Operator") -> bool:
    """Whether `back` makes the shape that `mean` would have with the axes that it is taken over."""
    given, over = (graph.tensors[t] for t in inputs_of(mean))
    axes, shape = constant(model, over), shape_of(given)
    if axes is None:
        return False
    gone = {int(a) % len(shape) for a in axes.ravel()}
    return shape_of(graph.tensors[outputs_of(back)[0]]) == tuple(1 if i in gone else n for i, n in enumerate(shape))
