"""Normalizations lose the reshape between mean and root, where nobody else reads what is reshaped."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the extra 'mobile' is not installed")

from converter.lowering.flat import add_buffer, add_tensor, opcode
from converter.lowering.norm import keep_axes


def _mean_then_reshape(back: tuple[int, ...]) -> tuple[Any, Any]:
    """Return a model and its graph: the mean of `[1, 7, 4]` over the last axis, plus a number, brought to `back`."""
    from ai_edge_litert import schema_py_generated as schema

    kind = schema.BuiltinOperator
    model, graph = schema.ModelT(), schema.SubGraphT([], None, None, [], "main")
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    floats, ints = schema.TensorType.FLOAT32, schema.TensorType.INT32
    given, axis = add_tensor(graph, "x", (1, 7, 4), floats), add_buffer(model, np.array([-1], np.int32))
    over = add_tensor(graph, "axis", (1,), ints, axis)
    small = add_tensor(graph, "small", (), floats, add_buffer(model, np.array(1e-5, np.float32)))
    mean, added = (add_tensor(graph, name, (1, 7), floats) for name in ("mean", "added"))
    shape = add_tensor(graph, "shape", (len(back),), ints, add_buffer(model, np.array(back, np.int32)))
    made, root = (add_tensor(graph, name, back, floats) for name in ("back", "root"))
    for code, inputs, output, options in (
        (kind.MEAN, [given, over], mean, schema.ReducerOptionsT()),
        (kind.ADD, [mean, small], added, schema.AddOptionsT()),
        (kind.RESHAPE, [added, shape], made, None),
        (kind.RSQRT, [made], root, None),
    ):
        op = schema.OperatorT(opcode(model, code), np.array(inputs, np.int32), np.array([output], np.int32))
        op.builtinOptions = options
        graph.operators.append(op)
    graph.inputs, graph.outputs = np.array([given], np.int32), np.array([root], np.int32)
    model.subgraphs = [graph]
    return model, graph


def test_a_mean_keeps_the_axis_that_a_reshape_put_back() -> None:
    model, graph = _mean_then_reshape((1, 7, 1))
    assert keep_axes(model, graph) == 1
    mean, add, root = graph.operators
    assert mean.builtinOptions.keepDims
    assert [tuple(graph.tensors[int(op.outputs[0])].shape) for op in (mean, add, root)] == [(1, 7, 1)] * 3
    assert int(root.inputs[0]) == int(add.outputs[0])


@pytest.mark.parametrize("why", ["another shape", "another reader", "an output"])
def test_a_reshape_that_does_more_stays(why: str) -> None:
    model, graph = _mean_then_reshape((7, 1) if why == "another shape" else (1, 7, 1))
    mean = int(graph.operators[0].outputs[0])
    if why == "another reader":
        graph.operators[3].inputs = np.array([*graph.operators[3].inputs, mean], np.int32)
    if why == "an output":
        graph.outputs = np.array([*graph.outputs, mean], np.int32)
    assert keep_axes(model, graph) == 0
    assert len(graph.operators) == 4
    assert not graph.operators[0].builtinOptions.keepDims
