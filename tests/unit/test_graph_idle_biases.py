"""Biases of keys and values are taken out of attention, to the same answer."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from converter.onnx.rewrites.idle_biases import drop_idle_biases
from tests.unit.test_graph_rewrites import floats, graph, run

WIDTH, HEADS = 8, 2


def _attention(extra_user: str = "") -> ir.Model:
    """Return one attention as exporters write it; `extra_user` names a value that something else reads too."""
    shape = np.array([0, 0, HEADS, WIDTH // HEADS])
    given = {f"w_{s}": floats(WIDTH, WIDTH) for s in "qkvo"} | {f"b_{s}": floats(WIDTH) for s in "qkvo"}
    given |= {"heads": shape, "flat": np.array([0, 0, WIDTH]), "scale": np.array(0.5, np.float32)}
    nodes = []
    for side, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            helper.make_node("MatMul", ["x", f"w_{side}"], [f"p_{side}"]),
            helper.make_node("Add", [f"p_{side}", f"b_{side}"], [f"t_{side}"]),
            helper.make_node("Reshape", [f"t_{side}", "heads"], [f"r_{side}"]),
            helper.make_node("Transpose", [f"r_{side}"], [side], perm=perm),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=(0, 2, 1, 3)),
        helper.make_node("Reshape", ["back", "flat"], ["joined"]),
        helper.make_node("MatMul", ["joined", "w_o"], ["p_o"]),
        helper.make_node("Add", ["p_o", "b_o"], ["t_o"]),
        helper.make_node("Add", ["t_o", extra_user or "x"], ["y"]),
    ]
    return graph(nodes, given, {"y": ["batch", "length", WIDTH]})


def test_both_biases_leave_attention_and_the_answer_stays(tmp_path: Path) -> None:
    model = _attention()
    x = floats(2, 5, WIDTH)
    wanted = run(model, x, tmp_path)[0]
    assert drop_idle_biases(model) == 2
    biases = {str(n.outputs[0].name): n.inputs[1] for n in model.graph if n.op_type == "Add"}
    for name in ("t_k", "t_v"):
        assert biases[name] is not None
        assert not biases[name].const_value.numpy().any()
    np.testing.assert_allclose(run(model, x, tmp_path)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(("read", "left"), [("t_k", 1), ("t_v", 1)])
def test_a_bias_that_something_else_reads_stays(read: str, left: int, tmp_path: Path) -> None:
    model = _attention(extra_user=read)
    x = floats(2, 5, WIDTH)
    wanted = run(model, x, tmp_path)[0]
    assert drop_idle_biases(model) == left
    np.testing.assert_allclose(run(model, x, tmp_path)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(("read", "left"), [("shares", 2), ("v", 1), ("r_v", 1)])
def test_tokens_may_be_ranked_by_shares_and_a_value_that_ranks_them_keeps_its_bias(read: str, left: int) -> None:
    model = _attention()
    value = next(o for n in model.graph for o in n.outputs if o.name == read)
    rank = ir.node("ReduceSum", [value], name="rank")
    model.graph.append(rank)
    assert drop_idle_biases(model) == left


def test_a_moved_bias_is_the_same_to_the_bit_wherever_the_weights_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of BLAS is rounded by the alignment of its numbers, which is another in every process."""
    monkeypatch.setitem(globals(), "WIDTH", 200)
    made = []
    for offset in range(4):
        model = _attention()
        random = np.random.default_rng(0)
        for name in ("w_o", "b_v", "b_o"):
            value = model.graph.initializers[name]
            assert value.const_value is not None
            shape = value.const_value.numpy().shape
            room = np.empty(int(np.prod(shape)) + 16, np.float32)
            lain = room[offset : offset + int(np.prod(shape))].reshape(shape)
            lain[...] = random.standard_normal(shape)
            value.const_value = ir.tensor(lain, name=name)
        assert drop_idle_biases(model) == 2
        (moved,) = (n.inputs[1] for n in model.graph if n.outputs[0].name == "t_o")
        assert moved is not None
        assert moved.const_value is not None
        made.append(moved.const_value.numpy().tobytes())
    assert len(set(made)) == 1
