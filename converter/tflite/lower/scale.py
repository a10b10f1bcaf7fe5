"""Attention's scale, moved from the scores into the weights that make the queries.

Scores are `heads x length x length` numbers, multiplied anew for every text; the weights are multiplied here, once.
LiteRT's converter would do the same, but holds all weights twice while it does.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.derived import Derived
from converter.tflite.file import code_of, constant, inputs_of, outputs_of

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator


def fold_scales(model: "Model", graph: "Graph", derived: Derived) -> int:
    """Fold every scale that can be; returns how many."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    makers = {t: op for op in graph.operators for t in outputs_of(op)}
    takers: dict[int, int] = {int(t): 1 for t in graph.outputs}
    for op in graph.operators:
        for tensor in inputs_of(op):
            takers[tensor] = takers.get(tensor, 0) + 1
    folded: dict[int, int] = {}
    for op in graph.operators:
        scale = _scalar(model, graph, op) if code_of(model, op) == BuiltinOperator.MUL else None
        linear = None if scale is None else _queries(model, makers, takers, inputs_of(op)[0])
        if scale is not None and linear is not None and _scaled(model, graph, linear, scale, derived):
            folded[outputs_of(op)[0]] = inputs_of(op)[0]
    graph.operators = [op for op in graph.operators if not set(outputs_of(op)) & folded.keys()]
    for op in graph.operators:
        op.inputs = np.array([folded.get(t, t) for t in inputs_of(op)], np.int32)
    return len(folded)


def _scalar(model: "Model", graph: "Graph", op: "Operator") -> float | None:
    values = constant(model, graph.tensors[inputs_of(op)[1]])
    return float(values.ravel()[0]) if values is not None and values.size == 1 else None


def _queries(model: "Model", makers: "dict[int, Operator]", takers: dict[int, int], scores: int) -> "Operator | None":
    """Return the linear layer that alone makes the left side of the product `scores`; None where there is none."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    op = makers.get(scores)
    if op is None or code_of(model, op) != BuiltinOperator.BATCH_MATMUL or takers[scores] != 1:
        return None
    passing = {BuiltinOperator.RESHAPE, BuiltinOperator.TRANSPOSE, BuiltinOperator.BATCH_MATMUL}
    while op is not None and code_of(model, op) in passing:
        given = inputs_of(op)[0]
        op = makers.get(given) if takers[given] == 1 else None
        passing -= {BuiltinOperator.BATCH_MATMUL}
    return op if op is not None and code_of(model, op) == BuiltinOperator.FULLY_CONNECTED else None


def _scaled(model: "Model", graph: "Graph", linear: "Operator", scale: float, derived: Derived) -> bool:
    given, *weights = inputs_of(linear)
    tensors = [graph.tensors[t] for t in weights if t >= 0]
    if linear.builtinOptions.fusedActivationFunction or any(constant(model, t) is None for t in tensors):
        return False
    for place, number in enumerate(weights):
        if number >= 0:
            weights[place] = _multiplied(model, graph, number, scale, derived)
    linear.inputs = np.array([given, *weights], np.int32)
    return True


def _multiplied(model: "Model", graph: "Graph", number: int, scale: float, derived: Derived) -> int:
    """Return a tensor beside `number`: where layers share their weights (ALBERT), others go on using that one."""
    values = constant(model, graph.tensors[number])
    assert values is not None
    key = ("scaled", int(graph.tensors[number].buffer), scale)
    return derived.tensor(graph, number, "scaled", key, lambda: values * np.float32(scale))
