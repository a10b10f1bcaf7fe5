"""Half precision: what becomes an index is computed in float32, as float16 would round it to another index."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from converter.quantize.fp16 import index_nodes, to_half

N = 3000


def buckets(*, layer: bool = False) -> Any:
    """Return a graph that looks a table up by the logarithm of a distance; `layer`: a product stands on the way."""
    constants = {
        "by": np.array([300], np.float32),
        "table": np.arange(4000, dtype=np.float32)[:, None] / 4000,
        "square": np.eye(N, dtype=np.float32),
    }
    middle = helper.make_node("MatMul", ["wide", "square"], ["cut"], "middle")
    nodes = [
        helper.make_node("Cast", ["distance"], ["float"], "float", to=TensorProto.FLOAT),
        helper.make_node("Log", ["float"], ["log"], "log"),
        helper.make_node("Mul", ["log", "by"], ["wide"], "mul"),
        middle if layer else helper.make_node("Abs", ["wide"], ["cut"], "middle"),
        helper.make_node("Cast", ["cut"], ["index"], "whole", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["bias"], "gather"),
        helper.make_node("Neg", ["bias"], ["y"], "neg"),
    ]
    graph = helper.make_graph(
        nodes,
        "buckets",
        [helper.make_tensor_value_info("distance", TensorProto.INT64, [1, N])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, N, 1])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return ir.from_proto(model)


def test_what_becomes_an_index_is_found_up_to_where_it_is_whole() -> None:
    assert index_nodes(buckets()) == {"float", "log", "mul", "middle", "whole"}


def test_what_takes_a_layers_product_is_no_index() -> None:
    assert index_nodes(buckets(layer=True)) == set()


def test_indices_come_out_equal_in_half_precision() -> None:
    distance = np.arange(1, N + 1, dtype=np.int64)[None]
    wanted, found = (
        ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"distance": distance})[0]
        for model in (buckets(), to_half(buckets()))
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=4e-4)  # half a step between two numbers of float16 below 2
    in_half = distance.astype(np.float16)
    rounded = np.abs((np.log(in_half) * np.float16(300)).astype(np.int64))
    assert (rounded != (np.log(distance.astype(np.float32)) * 300).astype(np.int64)).any(), "float16 would show"
