"""A list of rewrites runs in its order, and a broken condition names the rewrite and what ran before it."""

from typing import Any

import numpy as np
import pytest

from converter.errors import StageFailed
from converter.rewrite import Rewrite, apply_rewrites


def appends(name: str) -> Rewrite[list[str]]:
    return Rewrite(name, lambda graph: graph.append(name) or 1)


def test_rewrites_run_in_their_order_and_are_counted() -> None:
    graph: list[str] = []
    assert apply_rewrites([appends("a"), appends("b")], graph) == {"a": 1, "b": 1}
    assert graph == ["a", "b"]


def test_what_a_rewrite_requires_is_asked_before_it_runs() -> None:
    graph: list[str] = []
    needs_a = Rewrite("b", lambda g: g.append("b") or 1, requires=lambda g: "" if "a" in g else "there is no a")
    with pytest.raises(StageFailed, match="b cannot run after no other: there is no a"):
        apply_rewrites([needs_a, appends("a")], graph)
    assert graph == []


def test_what_a_rewrite_breaks_is_found_where_it_breaks() -> None:
    breaks = Rewrite[list[str]]("clears", lambda g: g.clear() or 0, ensures=lambda g: "" if g else "nothing")
    with pytest.raises(StageFailed, match="clears, run after a, left nothing"):
        apply_rewrites([appends("a"), breaks, appends("c")], [])
    unsound = Rewrite[list[str]]("empties", lambda g: g.clear() or 0)
    with pytest.raises(StageFailed, match="empties, run after a, left an empty graph"):
        apply_rewrites([appends("a"), unsound], [], lambda g: "" if g else "an empty graph")


def test_an_unforeseen_error_is_told_with_the_rewrite_it_came_from() -> None:
    def fails(_graph: list[str]) -> int:
        raise ZeroDivisionError("by chance")

    with pytest.raises(ZeroDivisionError) as raised:
        apply_rewrites([appends("a"), Rewrite("divides", fails)], [])
    assert raised.value.__notes__ == ["in the graph rewrite divides, after a"]


def _onnx_model() -> Any:
    import onnx_ir as ir

    given = ir.val("input_ids", ir.DataType.FLOAT, [1, 4])
    one = ir.node("Relu", [given], name="one")
    two = ir.node("Sqrt", [one.outputs[0]], name="two")
    one.outputs[0].name, two.outputs[0].name = "between", "logits"
    graph = ir.Graph([given], [two.outputs[0]], nodes=[one, two], opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def test_an_onnx_graph_that_loses_a_maker_is_unsound() -> None:
    from converter.onnx.rewrites.order import soundness_of

    def drops(model: Any) -> int:
        model.graph.remove(model.graph[0])
        return 1

    model = _onnx_model()
    sound = soundness_of(model)
    assert sound(model) == ""
    with pytest.raises(StageFailed, match="between, which Sqrt two reads before anything makes it"):
        apply_rewrites([Rewrite("drops", drops)], model, sound)


def test_an_onnx_graph_whose_interface_moves_is_unsound() -> None:
    from converter.onnx.rewrites.order import soundness_of

    def renames(model: Any) -> int:
        model.graph.outputs[0].name = "answers"
        return 1

    model = _onnx_model()
    with pytest.raises(StageFailed, match="renames, run after no other, left inputs and outputs"):
        apply_rewrites([Rewrite("renames", renames)], model, soundness_of(model))


def test_a_tflite_graph_that_loses_a_maker_is_unsound() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    from converter.tflite.derived import Derived
    from converter.tflite.file import add_tensor
    from converter.tflite.lower.order import Subgraph, unsound

    model = schema.ModelT(buffers=[schema.BufferT()], operatorCodes=[])
    graph = schema.SubGraphT(tensors=[], operators=[])
    for name in ("input_ids", "between", "logits"):
        add_tensor(graph, name, (1, 4), 0)
    of = lambda given, made: schema.OperatorT(inputs=np.array([given], np.int32), outputs=np.array([made], np.int32))  # noqa: E731
    graph.inputs, graph.outputs, graph.operators = np.array([0]), np.array([2]), [of(0, 1), of(1, 2)]
    subgraph = Subgraph(model, graph, Derived(model))
    assert unsound(subgraph) == ""
    graph.operators = graph.operators[1:]
    assert unsound(subgraph) == "tensor 1, which operation 0 reads before anything makes it"
    graph.operators = []
    assert unsound(subgraph) == "the output tensor 2 made by nothing"
