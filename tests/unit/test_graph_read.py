"""A file read without its weights is the file: same graph, same numbers, same answers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.errors import StageFailed
from converter.onnx.read import INLINE_BYTES, hollow_proto, read_onnx
from converter.onnx.runner import open_lean_session, open_session
from converter.onnx.write import write_onnx

RNG = np.random.default_rng(0)
LARGE = INLINE_BYTES // 8


def saved(path: Path, width: int = LARGE) -> Path:
    weights = {
        "w": RNG.standard_normal((8, width)).astype(np.float32),
        "half": RNG.standard_normal(width).astype(np.float16),
        "one": np.array(3.5, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["m", "wide"], ["a"]),
        helper.make_node("Mul", ["a", "one"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", width])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    write_onnx(model, path)
    return path


def test_reading_and_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx")
    write_onnx(read_onnx(path), tmp_path / "b.onnx")
    assert path.read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_weight_read_when_asked_for_is_the_one_in_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx")
    found = {name: v.const_value for name, v in read_onnx(path).graph.initializers.items()}
    wanted = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        tensor = found[name]
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_lean_session_answers_alike_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx")
    x = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    wanted = open_session(path).run(None, {"x": x})[0]
    np.testing.assert_allclose(open_lean_session(path).run(None, {"x": x})[0], wanted, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_a_hollow_proto_passes_the_checker_and_holds_no_large_weight(tmp_path: Path) -> None:
    proto, weights = hollow_proto(read_onnx(saved(tmp_path / "a.onnx")))
    onnx.checker.check_model(proto, full_check=True)
    assert "w" in weights
    assert proto.graph.input[0].name == "x"
    assert all(len(i.raw_data) < INLINE_BYTES for i in proto.graph.initializer)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\x0a")
    with pytest.raises(StageFailed, match="not an ONNX file"):
        read_onnx(path)


MEASURE = """
import resource, sys, json
from pathlib import Path
from converter.onnx.read import read_onnx
from converter.onnx.write import write_onnx
import onnx, onnx_ir, numpy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
write_onnx(read_onnx(Path(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps(peak() - before))
"""


def test_a_model_passes_through_without_being_held(tmp_path: Path) -> None:
    # 8 weights of 16 MB: at once they would be 128.
    weights = {f"w{i}": RNG.standard_normal((4000, 1000)).astype(np.float32) for i in range(8)}
    nodes = [helper.make_node("MatMul", ["x", n], [f"y{n}"]) for n in weights]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4000])],
        [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, ["batch", 1000]) for n in weights],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    write_onnx(ir.from_proto(helper.make_model(graph, ir_version=10)), tmp_path / "a.onnx")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert json.loads(done.stdout) < 64 * 2**20


def test_what_the_runtime_has_no_kernel_for_is_told_as_such(tmp_path: Path) -> None:
    """PyTorch exports Falcon's ALiBi in bfloat16, which ONNX Runtime cannot multiply on a CPU."""
    given = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, ["n"]) for n in ("x", "y")]
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "g", given[:1], given[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "a.onnx")
    with pytest.raises(StageFailed, match="ONNX Runtime cannot open what was exported"):
        open_lean_session(tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
