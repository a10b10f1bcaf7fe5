"""Each rewrite changes what it is for, leaves the rest alone, and never changes an answer."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.onnx.rewrites.clean import clean_graph, share_equal_weights
from converter.onnx.rewrites.embeddings import quantize_embeddings
from converter.onnx.rewrites.flat_biases import flatten_biases
from converter.onnx.rewrites.gemms import gemms_as_products
from converter.onnx.rewrites.joint_heads import split_heads_together
from converter.onnx.rewrites.projections import merge_projections
from converter.onnx.rewrites.residuals import residuals_as_sums
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.rewrites.smoothing import Smoothing, apply_smoothing
from converter.onnx.runner import open_session
from converter.onnx.write import write_onnx

RNG = np.random.default_rng(0)


def graph(
    nodes: list[Any], weights: dict[str, np.ndarray], outputs: dict[str, list[str | int]], integer: bool = False
) -> ir.Model:
    kind = TensorProto.INT64 if integer else TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", kind, ["batch", "length"] if integer else ["batch", "length", 8])
    made = helper.make_graph(
        nodes,
        "g",
        [given],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def run(model: ir.Model, x: np.ndarray, tmp_path: Path) -> list[np.ndarray]:
    path = tmp_path / "run.onnx"
    write_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return list(open_session(path).run(None, {"x": x}))


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


X = floats(2, 5, 8)


def projections(*, biased: bool = True) -> ir.Model:
    nodes, weights = [], {}
    for name in "qkv":
        weights |= {f"w{name}": floats(8, 4), f"b{name}": floats(4)}
        nodes.append(helper.make_node("MatMul", ["x", f"w{name}"], [f"m{name}"]))
        second = f"b{name}" if biased else f"m{name}"
        nodes.append(helper.make_node("Add", [f"m{name}", second], [f"a{name}"]))
    nodes += [
        helper.make_node("Relu", ["aq"], ["rq"]),
        helper.make_node("Sum", ["rq", "ak", "av"], ["y"]),
    ]
    return graph(nodes, weights, {"y": ["batch", "length", 4]})


def test_projections_of_one_input_become_one_product(tmp_path: Path) -> None:
    model = projections()
    wanted = run(model, X, tmp_path)
    assert merge_projections(model) == 1
    assert ops(model).count("MatMul") == 1
    np.testing.assert_allclose(run(model, X, tmp_path)[0], wanted[0], atol=1e-5)


def test_projections_without_a_bias_are_left_alone() -> None:
    model = projections(biased=False)
    assert merge_projections(model) == 0
    assert ops(model).count("MatMul") == 3


def test_a_bias_of_one_row_becomes_a_vector_behind_a_product_only(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["row", "m"], ["biased"]),
        helper.make_node("Add", ["biased", "row"], ["y"]),
    ]
    model = graph(nodes, {"w": floats(8, 4), "row": floats(1, 4)}, {"y": ["batch", "length", 4]})
    wanted = run(model, X, tmp_path)
    assert flatten_biases(model) == 1
    assert model.graph[1].inputs[0].shape.numpy() == (4,)
    assert len(model.graph[2].inputs[1].shape.numpy()) == 2
    np.testing.assert_array_equal(run(model, X, tmp_path)[0], wanted[0])


def test_a_row_of_one_number_is_no_bias_of_a_product() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "row"], ["y"])]
    model = graph(nodes, {"w": floats(8, 4), "row": floats(1, 1)}, {"y": ["batch", "length", 4]})
    assert flatten_biases(model) == 0


def heads_apart(shapes: list[list[int]], *, perm: list[int] | None = None, sizes: list[int] | None = None) -> ir.Model:
    """Three parts of one value, each put into heads by itself."""
    nodes = [helper.make_node("Split", ["x", "sizes"], ["a0", "a1", "a2"], axis=-1)]
    weights = {"sizes": np.array(sizes or [4, 4, 4])}
    for i, shape in enumerate(shapes):
        weights[f"s{i}"] = np.array(shape)
        nodes.append(helper.make_node("Reshape", [f"a{i}", f"s{i}"], [f"r{i}"]))
        nodes.append(helper.make_node("Transpose", [f"r{i}"], [f"t{i}"], perm=perm or [0, 2, 1, 3]))
        nodes.append(helper.make_node("Relu", [f"t{i}"], [f"y{i}"]))
    model = graph(nodes, weights, {f"y{i}": [None] * 4 for i in range(3)})
    model.graph.inputs[0].shape = ir.Shape(["batch", "length", 12])
    return model


@pytest.mark.parametrize("length", [5, 0])
def test_parts_that_are_put_into_heads_are_put_there_together(length: int, tmp_path: Path) -> None:
    model, given = heads_apart([[0, 0, 2, 2]] * 3), floats(2, length, 12)
    wanted = run(model, given, tmp_path)
    assert split_heads_together(model) == 1
    assert ops(model)[:3] == ["Reshape", "Transpose", "Split"]
    assert len(ops(model)) == 6
    for found, before in zip(run(model, given, tmp_path), wanted, strict=True):
        np.testing.assert_array_equal(found, before)


@pytest.mark.parametrize(
    "model",
    [
        heads_apart([[0, 0, 2, 2], [0, 0, 1, 4], [0, 0, 2, 2]]),
        heads_apart([[0, 0, 2, 2]] * 3, perm=[0, 2, 3, 1]),
        heads_apart([[0, 0, 2, -1]] * 3),
        heads_apart([[0, 0, 2, -1]] * 3, sizes=[2, 4, 6]),
    ],
    ids=["other heads", "turned otherwise", "a size left open", "other widths"],
)
def test_parts_that_differ_are_put_into_heads_one_by_one(model: ir.Model) -> None:
    before = ops(model)
    assert split_heads_together(model) == 0
    assert ops(model) == before


def test_residuals_before_a_norm_become_sums_and_biases_do_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["biased"]),
        helper.make_node("Add", ["biased", "x"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "scale"], ["y"], axis=-1),
    ]
    model = graph(nodes, {"b": floats(8), "scale": floats(8)}, {"y": ["batch", "length", 8]})
    wanted = run(model, X, tmp_path)
    assert residuals_as_sums(model) == 1
    assert ops(model) == ["Relu", "Add", "Sum", "LayerNormalization"]
    np.testing.assert_allclose(run(model, X, tmp_path)[0], wanted[0], atol=1e-6)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_becomes_product_and_bias_and_keeps_its_name(transposed: int, tmp_path: Path) -> None:
    weight = floats(3, 8) if transposed else floats(8, 3)
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["row"], axis=1),
        helper.make_node("Gemm", ["row", "w", "b"], ["y"], transB=transposed),
    ]
    model = graph(nodes, {"first": np.array(0), "w": weight, "b": floats(3)}, {"y": ["batch", 3]})
    wanted = run(model, X, tmp_path)
    assert gemms_as_products(model) == 1
    assert [v.name for v in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model, X, tmp_path)[0], wanted[0], atol=1e-5)


def test_a_scaled_gemm_is_left_alone() -> None:
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["row"], axis=1),
        helper.make_node("Gemm", ["row", "w", "b"], ["y"], alpha=0.5),
    ]
    model = graph(nodes, {"first": np.array(0), "w": floats(8, 3), "b": floats(3)}, {"y": ["batch", 3]})
    assert gemms_as_products(model) == 0


def test_equal_weights_are_kept_once_and_a_scalar_is_no_vector() -> None:
    same = floats(8, 8)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"]),
        helper.make_node("MatMul", ["m1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "scalar"], ["a"]),
        helper.make_node("Add", ["a", "vector"], ["y"]),
    ]
    one = np.float32(1.5)
    weights = {"w1": same, "w2": same.copy(), "scalar": np.array(one), "vector": np.array([one])}
    model = graph(nodes, weights, {"y": ["batch", "length", 8]})
    assert share_equal_weights(model.graph) == 1
    assert sorted(model.graph.initializers) == ["scalar", "vector", "w1"]


def test_cleaning_removes_what_tells_of_the_exporter() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"], doc_string="File /home/x.py")], {}, {"y": ["s0", "s1", 8]})
    model.graph.node(0).metadata_props["stack"] = "trace"
    clean_graph(model)
    assert model.graph.node(0).doc_string in {None, ""}
    assert not model.graph.node(0).metadata_props
    assert list(model.graph.outputs[0].shape or ()) == ["batch", "length", 8]


def test_an_embedding_in_int8_gives_back_its_rows(tmp_path: Path) -> None:
    table = floats(100, 16) * np.linspace(0.01, 10, 100, dtype=np.float32)[:, None]
    nodes = [helper.make_node("Gather", ["table", "x"], ["rows"]), helper.make_node("Identity", ["rows"], ["y"])]
    model = graph(nodes, {"table": table}, {"y": ["batch", "length", 16]}, integer=True)
    assert quantize_embeddings(model) == 1
    ids = np.arange(100).reshape(2, 50)
    found = run(model, ids, tmp_path)[0]
    # Half a step of each row's own scale, which is at most one unit (the 255th part of the largest) above the least.
    steps = np.abs(table).max(axis=-1, keepdims=True) / 127
    assert np.all(np.abs(found - table[ids]) <= (steps + steps.max() / 255)[ids] * 0.501)
    assert sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value) < 100 * 17 + 16


def test_a_small_table_stays_float() -> None:
    model = graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"table": floats(2, 8)},
        {"y": ["batch", "length", 8]},
        integer=True,
    )
    assert quantize_embeddings(model) == 0


def product_model(weight: np.ndarray) -> ir.Model:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return graph([node], {"w": weight}, {"y": ["batch", "length", int(weight.shape[1])]})


def test_smoothing_changes_no_answer(tmp_path: Path) -> None:
    model = product_model(floats(8, 40))
    sites = list(quantizable(model))
    factors = np.array([1, 1, 1, 30, 1, 0.2, 1, 1], dtype=np.float32)
    wanted = run(model, X, tmp_path)
    apply_smoothing(model, sites, [Smoothing((str(sites[0].node.name),), factors, 0.5)])
    assert ops(model) == ["Mul", "MatMul"]
    np.testing.assert_allclose(run(model, X, tmp_path)[0], wanted[0], rtol=1e-4, atol=1e-4)


def test_a_narrow_product_is_a_classifier_and_stays_float() -> None:
    assert list(quantizable(product_model(floats(8, 3)))) == []


def test_the_written_file_is_what_onnx_itself_reads(tmp_path: Path) -> None:
    model = projections()
    write_onnx(model, tmp_path / "a.onnx")
    loaded = onnx.load(tmp_path / "a.onnx")
    assert {i.name for i in loaded.graph.initializer} == set(model.graph.initializers)
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        found = next(numpy_helper.to_array(i) for i in loaded.graph.initializer if i.name == name)
        np.testing.assert_array_equal(found, value.const_value.numpy())
