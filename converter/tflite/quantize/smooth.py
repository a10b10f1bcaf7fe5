"""Linear layers whose inputs have a few strong channels: the strength is moved into the weights, before int8 rounds.

SmoothQuant (arXiv 2211.10438): a channel of the input is divided, and its column of the weights multiplied, by the root
of what the one has over the other. In a post-norm encoder the normalized values also go into a residual connection,
so the division is an operation of its own; it costs a hundredth of the layer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import (
    add_buffer,
    add_tensor,
    code_of,
    constant,
    inputs_of,
    outputs_of,
    shape_of,
    text,
)
from converter.tflite.positions import operation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.quantize.moments import Moments
    from converter.tflite.schema import Graph, Model, Operator

WIDEST = 50.0
"""Largest factor: what hardly ever speaks is not made loud."""


@dataclass(frozen=True)
class Fitted:
    """Weights `[out, in]` as they will be rounded, and the second moments of what they are multiplied with."""

    weights: "NDArray[np.float32]"
    moments: "NDArray[np.float32]"


def smooth(model: "Model", seen: "dict[int, Moments]", strength: float, peak: float) -> tuple[dict[str, Fitted], int]:
    """Smooth in place; returns, by name, the weights of every measured linear layer, and how many inputs changed.

    `seen`: by the weights' buffer. `strength`: 0 leaves all as it is, 0.5 shares evenly. `peak`: times the mean
    strength from which a channel is strong.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    made: dict[tuple[int, ...], tuple[NDArray[np.float32], int]] = {}
    held: dict[tuple[tuple[int, ...], int], tuple[int, Fitted]] = {}
    found: dict[str, Fitted] = {}
    for graph in model.subgraphs:
        groups: dict[int, list[Operator]] = {}
        for op in graph.operators:
            if code_of(model, op) == BuiltinOperator.FULLY_CONNECTED and buffer_of(graph, op) in seen:
                groups.setdefault(inputs_of(op)[0], []).append(op)
        divided: dict[int, Operator] = {}
        own: dict[tuple[int, int], int] = {}
        for tensor, layers in groups.items():
            buffers = tuple(buffer_of(graph, op) for op in layers)
            if buffers not in made:
                factors = factors_of(model, graph, layers, seen[buffers[0]], strength, peak)
                made[buffers] = factors, add_buffer(model, 1 / factors)
            factors, inverse = made[buffers]
            if (factors != 1).any():
                divided[tensor] = _divide(model, graph, tensor, layers, inverse)
            for op, buffer in zip(layers, buffers, strict=True):
                if (buffers, buffer) not in held:
                    held[buffers, buffer] = _fitted(model, graph, op, factors, seen[buffer])
                number, fitted = held[buffers, buffer]
                found[_weights(graph, op, number, own)] = fitted
        graph.operators = [o for op in graph.operators for o in (op, *_after(op, divided))]
    return found, sum(bool((f != 1).any()) for f, _ in made.values())


def buffer_of(graph: "Graph", op: "Operator") -> int:
    """Return the buffer of a linear layer's weights."""
    return int(graph.tensors[inputs_of(op)[1]].buffer)


def factors_of(
    model: "Model", graph: "Graph", layers: "list[Operator]", seen: "Moments", strength: float, peak: float
) -> "NDArray[np.float32]":
    """Return what each channel that `layers` read is to be divided by; ones where none has `peak` times the mean."""
    power = np.sqrt(np.diag(seen.second)) + 1e-6
    if not strength or power.max() < peak * power.mean():
        return np.ones(len(power), np.float32)
    columns = [np.abs(values_of(model, graph, op)).max(axis=0) for op in layers]
    factors = power**strength / (np.max(columns, axis=0) + 1e-6) ** (1 - strength)
    factors /= np.exp(np.log(factors).mean())
    return np.clip(factors, 1 / WIDEST, WIDEST).astype(np.float32)


def values_of(model: "Model", graph: "Graph", op: "Operator") -> "NDArray[np.float32]":
    """Return a linear layer's weights `[out, in]`."""
    values = constant(model, graph.tensors[inputs_of(op)[1]])
    assert values is not None, "only layers with constant weights are measured"
    return values


def _divide(model: "Model", graph: "Graph", tensor: int, layers: "list[Operator]", inverse: int) -> "Operator":
    """Point `layers` at the divided input; returns the operation that makes it."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, MulOptionsT, TensorType

    given = graph.tensors[tensor]
    shape, name = shape_of(given), text(given.name)
    by = add_tensor(graph, f"{name}/by", (*(1 for _ in shape[1:]), shape[-1]), TensorType.FLOAT32, inverse)
    made = add_tensor(graph, f"{name}/smooth", shape, TensorType.FLOAT32)
    for op in layers:
        op.inputs = np.array([made, *inputs_of(op)[1:]], np.int32)
    options = (BuiltinOptions.MulOptions, MulOptionsT())
    return operation(model, BuiltinOperator.MUL, [tensor, by], made, options)


def _fitted(
    model: "Model", graph: "Graph", op: "Operator", factors: "NDArray[np.float32]", seen: "Moments"
) -> tuple[int, Fitted]:
    values = values_of(model, graph, op) * factors
    return add_buffer(model, values), Fitted(values, seen.divided(factors).second)


def _weights(graph: "Graph", op: "Operator", buffer: int, own: dict[tuple[int, int], int]) -> str:
    """Give a layer the fitted weights in a tensor of their own, once where layers share them; returns its name."""
    given, old, *rest = inputs_of(op)
    if (old, buffer) not in own:
        tensor = graph.tensors[old]
        others = sum(known == old for known, _ in own)
        name = f"{text(tensor.name)}/fitted" + (f".{others + 1}" if others else "")
        own[old, buffer] = add_tensor(graph, name, shape_of(tensor), tensor.type, buffer)
    made = own[old, buffer]
    op.inputs = np.array([given, made, *rest], np.int32)
    return text(graph.tensors[made].name)


def _after(op: "Operator", divided: "dict[int, Operator]") -> "list[Operator]":
    return [divided[t] for t in outputs_of(op) if t in divided]
