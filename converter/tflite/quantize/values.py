"""Attention's outputs, smoothed at no cost: their strong channels are weakened in the layer that makes the values.

Attention adds values up, channel by channel. So a channel of what it makes is divided by dividing one row of the value
layer's weights: no operation is added, and rows have a scale each when they are rounded, so nothing is lost there.
"""

from collections import Counter
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from converter.tflite.derived import Derived
from converter.tflite.file import constant, inputs_of, is_kind, outputs_of, shape_of
from converter.tflite.quantize.moments import Moments
from converter.tflite.quantize.smooth import buffer_of, factors_of, values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model, Operator

HEADS_FIRST = (0, 2, 1, 3)
"""`[text, token, head, channel]` to `[text, head, token, channel]`, and back."""


def balance_values(model: "Model", graph: "Graph", seen: dict[int, Moments], strength: float, derived: Derived) -> int:
    """Balance in place, exactly; `seen`, by the weights' buffer, gains the new weights. Returns how many layers."""
    makers = {t: op for op in graph.operators for t in outputs_of(op)}
    readers = Counter(t for op in graph.operators for t in inputs_of(op))
    users = Counter(int(graph.tensors[t].buffer) for op in graph.operators for t in inputs_of(op) if t >= 0)
    balanced = 0
    for output in graph.operators:
        value = _value_layer(model, graph, output, makers, readers)
        if value is None or not {buffer_of(graph, value), buffer_of(graph, output)} <= seen.keys():
            continue
        buffers = buffer_of(graph, value), buffer_of(graph, output)
        if any(users[b] > 1 for b in buffers):
            continue  # Where layers share weights, each would want its own.
        factors = factors_of(model, graph, [output], seen[buffers[1]], strength, peak=0.0)
        if (factors != 1).any():
            _scale(model, graph, value, np.reciprocal(factors)[:, None], derived)
            _scale(model, graph, output, factors, derived)
            seen[buffer_of(graph, value)] = seen[buffers[0]]
            seen[buffer_of(graph, output)] = seen[buffers[1]].divided(factors)
            balanced += 1
    return balanced


def _value_layer(
    model: "Model", graph: "Graph", output: "Operator", makers: "dict[int, Operator]", readers: Counter[int]
) -> "Operator | None":
    """Return the layer that makes the values whose sums `output` reads, its channels in the same order; else None."""
    if not _is_layer(output, model, graph):
        return None
    found = output
    for name in ("RESHAPE", "TRANSPOSE", "BATCH_MATMUL", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"):
        given = inputs_of(found)[1 if is_kind(found, "BATCH_MATMUL", model) else 0]
        maker = makers.get(given) if readers[given] == 1 else None
        if maker is None or not is_kind(maker, name, model) or not _keeps_channels(model, graph, maker):
            return None
        found = maker
    width = shape_of(graph.tensors[outputs_of(found)[0]])[-1:]
    same = width == shape_of(graph.tensors[inputs_of(output)[0]])[-1:]
    return found if same and _is_layer(found, model, graph) else None


def _is_layer(op: "Operator | None", model: "Model", graph: "Graph") -> "TypeGuard[Operator]":
    if not is_kind(op, "FULLY_CONNECTED", model) or op.builtinOptions.fusedActivationFunction:
        return False
    return all(constant(model, graph.tensors[t]) is not None for t in inputs_of(op)[1:] if t >= 0)


def _keeps_channels(model: "Model", graph: "Graph", op: "Operator") -> bool:
    """Whether a step between values and output leaves heads and their channels in their order."""
    given, *rest = inputs_of(op)
    before, after = shape_of(graph.tensors[given]), shape_of(graph.tensors[outputs_of(op)[0]])
    if is_kind(op, "TRANSPOSE", model):
        order = constant(model, graph.tensors[rest[0]])
        return order is not None and tuple(order.ravel()) == HEADS_FIRST
    if is_kind(op, "RESHAPE", model):
        apart, joined = (before, after) if len(before) == 4 else (after, before)
        return len(apart) == 4 and joined[-1] == apart[-1] * apart[-2]
    return not is_kind(op, "BATCH_MATMUL", model) or not op.builtinOptions.adjY


def _scale(model: "Model", graph: "Graph", layer: "Operator", by: "NDArray[np.float32]", derived: Derived) -> None:
    """Multiply the weights `[out, in]` of a layer; where `by` is a column, its bias as well."""
    given, weights, *rest = inputs_of(layer)
    key = int(graph.tensors[weights].buffer)
    made = derived.tensor(graph, weights, "balanced", ("weights", key), lambda: values_of(model, graph, layer) * by)
    values = constant(model, graph.tensors[rest[0]]) if rest and rest[0] >= 0 and by.ndim > 1 else None
    if values is not None:
        rest = [derived.tensor(graph, rest[0], "balanced", ("bias", key), lambda: values * by.ravel())]
    layer.inputs = np.array([given, made, *rest], np.int32)
