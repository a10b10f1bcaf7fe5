"""Normalizations lose the reshape between mean and root, where nobody else reads what is reshaped."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the extra 'mobile' is not installed")

from converter.tflite.lower.norm import keep_axes
from tests.graphs import Built


def _mean_then_reshape(back: tuple[int, ...]) -> Built:
    """Return the mean of `[1, 7, 4]` over the last axis, plus a number, brought to `back`."""
    from ai_edge_litert import schema_py_generated as schema

    made = Built()
    given = made.tensor("x", (1, 7, 4))
    mean = made.add("MEAN", [given, made.constant("axis", [-1])], (1, 7), schema.ReducerOptionsT())
    added = made.binary("ADD", mean, made.constant("small", 1e-5), (1, 7))
    shaped = made.add("RESHAPE", [added, made.constant("shape", list(back))], back)
    made.close([given], [made.add("RSQRT", [shaped], back)])
    return made


def test_a_mean_keeps_the_axis_that_a_reshape_put_back() -> None:
    made = _mean_then_reshape((1, 7, 1))
    graph = made.graph
    assert keep_axes(made.model, graph) == 1
    mean, add, root = graph.operators
    assert mean.builtinOptions.keepDims
    assert [tuple(graph.tensors[int(op.outputs[0])].shape) for op in (mean, add, root)] == [(1, 7, 1)] * 3
    assert int(root.inputs[0]) == int(add.outputs[0])


@pytest.mark.parametrize("why", ["another shape", "another reader", "an output"])
def test_a_reshape_that_does_more_stays(why: str) -> None:
    made = _mean_then_reshape((7, 1) if why == "another shape" else (1, 7, 1))
    graph = made.graph
    mean = int(graph.operators[0].outputs[0])
    if why == "another reader":
        graph.operators[3].inputs = np.array([*graph.operators[3].inputs, mean], np.int32)
    if why == "an output":
        graph.outputs = np.array([*graph.outputs, mean], np.int32)
    assert keep_axes(made.model, graph) == 0
    assert len(graph.operators) == 4
    assert not graph.operators[0].builtinOptions.keepDims
