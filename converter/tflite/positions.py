"""Rows of a table by position: the first ones, or as many as there are tokens."""

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import add_buffer, add_tensor, bytes_of, opcode, shape_of, text

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator

ANY = -1
"""The length of a file that takes any."""


def look_up(model: "Model", graph: "Graph", made: int, table: int, rows: int) -> None:
    """Fill the tensor `made` `[1, …, length, width]` with the `rows` of a table `[longest, width]`, a buffer."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    tensor = graph.tensors[made]
    name, shape = text(tensor.name), shape_of(tensor) if tensor.shapeSignature is None else tensor.shapeSignature
    width = int(shape[-1])
    held = add_tensor(graph, f"{name}/table", (len(bytes_of(model, table)) // 4 // width, width), 0, table)
    found = add_tensor(graph, f"{name}/rows", (shape_of(graph.tensors[rows])[0], width), TensorType.FLOAT32)
    if tensor.shapeSignature is not None:
        graph.tensors[found].shapeSignature = np.array((ANY, width), np.int32)
    wanted = ints(model, graph, f"{name}/shape", [int(n) for n in shape])
    graph.operators += [
        operation(model, BuiltinOperator.EMBEDDING_LOOKUP, [rows, held], found),
        operation(model, BuiltinOperator.RESHAPE, [found, wanted], made),
    ]


def count_tokens(model: "Model", graph: "Graph", longest: int, made: int | None = None) -> int:
    """Number the tokens of the first input from zero, past the longest with its number; returns the tensor.

    In operations whose shapes follow from the input's, so that all that comes after may still run in XNNPACK.
    """
    from ai_edge_litert.schema_py_generated import (
        AddOptionsT,
        BuiltinOperator,
        BuiltinOptions,
        CumsumOptionsT,
        MaximumMinimumOptionsT,
        MulOptionsT,
        TensorType,
    )

    flat, none, ones, counted = (
        add_tensor(graph, f"positions/{name}", (1,), TensorType.INT32) for name in ("flat", "none", "ones", "counted")
    )
    made = add_tensor(graph, "positions", (1,), TensorType.INT32) if made is None else made
    for tensor in (flat, none, ones, counted, made):
        graph.tensors[tensor].shapeSignature = np.array([ANY], np.int32)
    zero, one, last = (
        add_tensor(graph, f"positions/{n}", (), TensorType.INT32, add_buffer(model, np.array(n, np.int32)))
        for n in (0, 1, longest - 1)
    )
    shape = ints(model, graph, "positions/shape", [ANY])
    bounded = (BuiltinOptions.MaximumMinimumOptions, MaximumMinimumOptionsT())
    graph.operators += [
        operation(model, BuiltinOperator.RESHAPE, [int(graph.inputs[0]), shape], flat),
        operation(model, BuiltinOperator.MUL, [flat, zero], none, (BuiltinOptions.MulOptions, MulOptionsT())),
        operation(model, BuiltinOperator.ADD, [none, one], ones, (BuiltinOptions.AddOptions, AddOptionsT())),
        operation(
            model,
            BuiltinOperator.CUMSUM,
            [ones, zero],
            counted,
            (BuiltinOptions.CumsumOptions, CumsumOptionsT(exclusive=True)),
        ),
        operation(model, BuiltinOperator.MINIMUM, [counted, last], made, bounded),
    ]
    return made


def repeat(model: "Model", graph: "Graph", made: int, value: int) -> None:
    """Fill the tensor `made`, one number a token of the first input, with `value`."""
    from ai_edge_litert.schema_py_generated import AddOptionsT, BuiltinOperator, BuiltinOptions, MulOptionsT, TensorType

    signature = graph.tensors[made].shapeSignature
    assert signature is not None, "the number of tokens is not fixed"
    shape = [int(n) for n in signature]
    once = [max(1, n) for n in shape]
    brought, none = (add_tensor(graph, f"repeated/{n}", once, TensorType.INT32) for n in ("brought", "none"))
    for tensor in (brought, none):
        graph.tensors[tensor].shapeSignature = np.array(shape, np.int32)
    zero, same = (
        add_tensor(graph, f"repeated/{n}", (), TensorType.INT32, add_buffer(model, np.array(n, np.int32)))
        for n in (0, value)
    )
    wanted = ints(model, graph, "repeated/shape", shape)
    graph.operators += [
        operation(model, BuiltinOperator.RESHAPE, [int(graph.inputs[0]), wanted], brought),
        operation(model, BuiltinOperator.MUL, [brought, zero], none, (BuiltinOptions.MulOptions, MulOptionsT())),
        operation(model, BuiltinOperator.ADD, [none, same], made, (BuiltinOptions.AddOptions, AddOptionsT())),
    ]


def operation(
    model: "Model", code: int, inputs: list[int], output: int, options: tuple[int, Any] = (0, None)
) -> "Operator":
    from ai_edge_litert.schema_py_generated import OperatorT

    return OperatorT(opcode(model, code), np.array(inputs, np.int32), np.array([output], np.int32), *options)


def ints(model: "Model", graph: "Graph", name: str, values: list[int]) -> int:
    """Add a constant vector; returns its tensor."""
    from ai_edge_litert.schema_py_generated import TensorType

    return add_tensor(graph, name, (len(values),), TensorType.INT32, add_buffer(model, np.array(values, np.int32)))
