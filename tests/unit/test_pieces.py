"""Graphs cut into pieces: what branches and loops read of the values around them passes from piece to piece too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.errors import StageFailed
from converter.graphs import MODEL
from converter.onnx import pieces
from converter.onnx.pieces import Pieces
from converter.onnx.runner import open_session

WIDTH = 8


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.onnx.pieces.PIECE_BYTES", WIDTH * WIDTH * 4 + 64)


def body(name: str, nodes: list[Any], inputs: tuple[Any, ...] = (), outputs: tuple[Any, ...] = ()) -> Any:
    made = outputs or (helper.make_tensor_value_info(name, TensorProto.FLOAT, None),)
    return helper.make_graph(nodes, name, list(inputs), list(made))


def saved(path: Path, nodes: list[Any], output: str, *more: Any) -> Path:
    """Write a graph from `x` to `output` whose nodes may read the square weights `w0` to `w3`."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(WIDTH, WIDTH)).astype(np.float32), f"w{i}") for i in range(4)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", WIDTH]) for n in ("x", output)]
    graph = helper.make_graph(nodes, "model", ends[:1], ends[1:], [*weights, *more])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def branching() -> list[Any]:
    """A branch that alone reads `h` and `w1`, and a loop that alone reads `h` and `w3`; each weight is a piece."""
    flag = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
    ]
    inner = body(
        "deep", [helper.make_node("MatMul", ["h", "w1"], ["m"]), helper.make_node("Add", ["m", "k"], ["deep"])]
    )
    then = body("then", [helper.make_node("If", ["positive"], ["then"], then_branch=inner, else_branch=inner)])
    other = body("other", [helper.make_node("Neg", ["h"], ["other"])])
    kinds = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, None)]
    steps = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("MatMul", ["v", "w3"], ["m"]),
        helper.make_node("Add", ["m", "h"], ["next"]),
    ]
    ends = [("on", TensorProto.BOOL, []), ("next", TensorProto.FLOAT, None)]
    loop = body("steps", steps, *(tuple(helper.make_tensor_value_info(*e) for e in side) for side in (kinds, ends)))
    return [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["x"], ["k"]),
        *flag,
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["y", "w2"], ["z"]),
        helper.make_node("Loop", ["twice", "", "z"], ["out"], body=loop),
    ]


def constants() -> tuple[Any, Any]:
    return numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.int64(2), "twice")


def test_what_branches_and_loops_read_of_the_values_around_them_reaches_their_piece(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", branching(), "out", *constants())
    cut, whole = Pieces(path), open_session(path)
    assert len(cut.pieces) == 4
    for piece in cut.pieces:
        held = {n for node in piece.nodes for n in pieces.reads_of(node) if n.startswith("w")}
        assert len(held) == 1, "weights that a branch alone reads count too"
    feeds = [{"x": np.full((2, WIDTH), sign, np.float32)} for sign in (1, -1)]
    wanted = [whole.run(["out"], feed)[0] for feed in feeds]
    assert not np.allclose(*wanted), "both branches are taken"
    for feed, one in zip(feeds, wanted, strict=True):
        np.testing.assert_allclose(cut.run(MODEL, feed)["out"], one, rtol=1e-5, atol=1e-4)
    found = [values["out"] for values in cut.passes(feeds) if values]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_value_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("SplitToSequence", ["h"], ["parts"], axis=1),
        helper.make_node("MatMul", ["x", "w1"], ["k"]),
        helper.make_node("ConcatFromSequence", ["parts"], ["joined"], axis=1),
        helper.make_node("Add", ["joined", "k"], ["y"]),
    ]
    cut = Pieces(saved(tmp_path / "model.onnx", nodes, "y"))
    with pytest.raises(StageFailed, match="parts is no tensor"):
        cut.run(MODEL, {"x": np.ones((2, WIDTH), np.float32)})
