"""GELU in the order that ONNX Runtime fuses: the same bits, one kernel."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.onnx.rewrites.gelu import gelus_for_fusion
from converter.onnx.write import write_onnx


def _gelu(half: float = 0.5, one: float = 1.0) -> ir.Model:
    constants = [
        numpy_helper.from_array(np.array(v, dtype=np.float32), n)
        for n, v in (("root", np.sqrt(2)), ("one", one), ("half", half))
    ]
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["total"]),
        helper.make_node("Mul", ["half", "total"], ["inner"]),
        helper.make_node("Mul", ["x", "inner"], ["gelu"]),
        helper.make_node("Identity", ["gelu"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "gelu", sides[:1], sides[1:], constants)
    return ir.serde.deserialize_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


def _answer(model: ir.Model, path: Path, x: np.ndarray) -> np.ndarray:
    write_onnx(model, path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


def test_the_reordered_gelu_gives_the_same_bits(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(scale=3, size=4096).astype(np.float32)
    wanted = _answer(_gelu(), tmp_path / "before.onnx", x)
    model = _gelu()
    assert gelus_for_fusion(model) == 1
    assert np.array_equal(_answer(model, tmp_path / "after.onnx", x), wanted)


def test_the_runtime_then_fuses_it(tmp_path: Path) -> None:
    import onnxruntime

    model = _gelu()
    gelus_for_fusion(model)
    write_onnx(model, tmp_path / "made.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "made.onnx"), options, providers=["CPUExecutionProvider"])
    assert "Gelu" in {n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node}


@pytest.mark.parametrize("constants", [{"half": 0.4}, {"one": 2.0}])
def test_what_is_no_gelu_is_left_alone(constants: dict[str, float]) -> None:
    assert gelus_for_fusion(_gelu(**constants)) == 0
