"""A table that is the output layer too, in int8 once: the quantizer keeps both."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import code_of, constant, inputs_of, outputs_of, shape_of, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model, Tensor

CLOSE = 0.51
"""Steps of a weight's scale that a value may be off where it is the same weight, rounded."""
ROWS = 4096
"""Rows that are compared at a time."""


def output_layers(model: "Model") -> list[str]:
    """Return the names of what the output layers make: products with a table that rows are looked up in too."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    tables = {
        graph.tensors[inputs_of(op)[1]].buffer
        for graph in model.subgraphs
        for op in graph.operators
        if code_of(model, op) == BuiltinOperator.EMBEDDING_LOOKUP
    }
    return [
        text(graph.tensors[outputs_of(op)[0]].name)
        for graph in model.subgraphs
        for op in graph.operators
        if code_of(model, op) == BuiltinOperator.FULLY_CONNECTED and graph.tensors[inputs_of(op)[1]].buffer in tables
    ]


def share_tied_tables(model: "Model") -> int:
    """Let rows be looked up in the int8 weights of the output layer where they are the same; returns how many tables.

    The quantizer keeps the float table beside them: of a translator that would be twice as much.
    """
    made: dict[int, Tensor] = {}
    products = {id(t): t for t in _products(model)}
    for graph in model.subgraphs:
        for table in _tables(model, graph):
            if table.buffer not in made:
                found = next((t for t in products.values() if _same(model, table, t)), None)
                if found is None:
                    continue
                made[table.buffer] = found
            twin = made[table.buffer]
            table.type, table.buffer, table.quantization = twin.type, twin.buffer, twin.quantization
            made[table.buffer] = twin
    return len({t.buffer for t in made.values()})


def _tables(model: "Model", graph: "Graph") -> "Iterator[Tensor]":
    """Yield the float tables of a graph that rows are looked up in."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    for op in graph.operators:
        if code_of(model, op) == BuiltinOperator.EMBEDDING_LOOKUP:
            table = graph.tensors[inputs_of(op)[1]]
            if table.type == TensorType.FLOAT32:
                yield table


def _products(model: "Model") -> "Iterator[Tensor]":
    """Yield the int8 weights of linear layers with one scale a row, those that are widened first included."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    for graph in model.subgraphs:
        makers = {t: op for op in graph.operators for t in outputs_of(op)}
        for op in graph.operators:
            if code_of(model, op) != BuiltinOperator.FULLY_CONNECTED:
                continue
            number = inputs_of(op)[1]
            made_by = makers.get(number)
            if made_by is not None and code_of(model, made_by) == BuiltinOperator.DEQUANTIZE:
                number = inputs_of(made_by)[0]
            weight = graph.tensors[number]
            scales = weight.quantization
            rows = shape_of(weight)[0] if shape_of(weight) else 0
            if weight.type != TensorType.INT8 or scales is None or scales.scale is None:
                continue
            if len(scales.scale) == rows and not int(scales.quantizedDimension):
                yield weight


def _same(model: "Model", table: "Tensor", weight: "Tensor") -> bool:
    """Tell whether `weight` is `table` in int8."""
    if shape_of(table) != shape_of(weight):
        return False
    values, codes = constant(model, table), constant(model, weight)
    assert values is not None, "a table is constant"
    assert codes is not None, "so is a weight"
    scales: NDArray[np.float32] = np.asarray(weight.quantization.scale)[:, None]  # type: ignore[union-attr]
    for i in range(0, len(values), ROWS):
        part = slice(i, i + ROWS)
        if np.any(np.abs(values[part] - codes[part] * scales[part]) > CLOSE * scales[part]):
            return False
    return True
