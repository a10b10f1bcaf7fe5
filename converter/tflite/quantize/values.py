"""Attention's outputs, smoothed at no cost: their strong channels are weakened in the layer that makes the values.

Attention adds values up, channel by channel. So a channel of what it makes is divided by dividing one row of the value
layer's weights: no operation is added, and rows have a scale each when they are rounded, so nothing is lost there.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.derived import Derived
from converter.tflite.file import constant, inputs_of, is_kind, outputs_of, shape_of
from converter.tflite.quantize.moments import Moments
from converter.tflite.quantize.smooth import buffer_of, factors_of, values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADS_FIRST = (0, 2, 1, 3)
"""`[text, token, head, channel]` to `[text, head, token, channel]`, and back."""


def balance_values(model: Any, graph: Any, seen: dict[int, Moments], strength: float, derived: Derived) -> int:
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


def _value_layer(model: Any, graph: Any, output: Any, makers: dict[int, Any], readers: Counter[int]) -> Any | None:
    """Return the layer that makes the values whose sums `output` reads, its channels in the same order; else None."""
    found = output if _is_layer(model, graph, output) else None
    for name in ("RESHAPE", "TRANSPOSE", "BATCH_MATMUL", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"):
        if found is None:
            return None
        given = inputs_of(found)[1 if is_kind(model, found, "BATCH_MATMUL") else 0]
        found = makers.get(given) if readers[given] == 1 else None
        if found is None or not is_kind(model, found, name) or not _keeps_channels(model, graph, found):
            return None
    width = shape_of(graph.tensors[outputs_of(found)[0]])[-1:]
    same = width == shape_of(graph.tensors[inputs_of(output)[0]])[-1:]
    return found if same and _is_layer(model, graph, found) else None


def _is_layer(model: Any, graph: Any, op: Any) -> bool:
    if not is_kind(model, op, "FULLY_CONNECTED") or op.builtinOptions.fusedActivationFunction:
        return False
    return all(constant(model, graph.tensors[t]) is not None for t in inputs_of(op)[1:] if t >= 0)


def _keeps_channels(model: Any, graph: Any, op: Any) -> bool:
    """Whether a step between values and output leaves heads and their channels in their order."""
    given, *rest = inputs_of(op)
    before, after = shape_of(graph.tensors[given]), shape_of(graph.tensors[outputs_of(op)[0]])
    if is_kind(model, op, "TRANSPOSE"):
        order = constant(model, graph.tensors[rest[0]])
        return order is not None and tuple(order.ravel()) == HEADS_FIRST
    if is_kind(model, op, "RESHAPE"):
        apart, joined = (before, after) if len(before) == 4 else (after, before)
        return len(apart) == 4 and joined[-1] == apart[-1] * apart[-2]
    return not is_kind(model, op, "BATCH_MATMUL") or not op.builtinOptions.adjY


def _scale(model: Any, graph: Any, layer: Any, by: "NDArray[np.float32]", derived: Derived) -> None:
    """Multiply the weights `[out, in]` of a layer; where `by` is a column, its bias as well."""
    given, weights, *rest = inputs_of(layer)
    key = int(graph.tensors[weights].buffer)
    made = derived.tensor(graph, weights, "balanced", ("weights", key), lambda: values_of(model, graph, layer) * by)
    values = constant(model, graph.tensors[rest[0]]) if rest and rest[0] >= 0 and by.ndim > 1 else None
    if values is not None:
        rest = [derived.tensor(graph, rest[0], "balanced", ("bias", key), lambda: values * by.ravel())]
    layer.inputs = np.array([given, made, *rest], np.int32)
