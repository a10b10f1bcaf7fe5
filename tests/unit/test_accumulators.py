"""Which CPUs a file's int8 products are exact on, told from the file."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converter.onnx.accumulators import SATURATING, instruction_sets
from converter.onnx.quantize.qdq import write_qdq
from converter.onnx.rewrites.integer_products import quantize_products
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.write import write_onnx


def model() -> ir.Model:
    weight = ir.Value(name="w", const_value=ir.tensor(np.full((8, 40), 0.5, dtype=np.float32), name="w"))
    given = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 8]))
    node = ir.node("MatMul", [given, weight], name="product")
    made = node.outputs[0]
    made.name, made.type, made.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 40])
    graph = ir.Graph([given], [made], nodes=[node], initializers=[weight], opset_imports={"": 18}, name="product")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_file_itself_says_where_it_is_safe(bounded: bool, portable: bool, tmp_path: Path) -> None:
    made = model()
    sites = list(quantizable(made))
    if portable:
        write_qdq(made, sites, {"x": (-1, 1)}, bounded=bounded, rounded={}, shifts={})
    else:
        quantize_products(made, sites, {"x": (-1, 1)}, bounded=bounded)
    write_onnx(made, tmp_path / "m.onnx")
    found = instruction_sets(tmp_path / "m.onnx")
    assert found["int8_products"] == 1
    assert (set(SATURATING) <= set(found["safe"])) == bounded
    assert (found["largest_weight_pair"] <= 128) == bounded


def test_a_float_file_is_safe_everywhere(tmp_path: Path) -> None:
    write_onnx(model(), tmp_path / "m.onnx")
    found = instruction_sets(tmp_path / "m.onnx")
    assert found["int8_products"] == 0
    assert set(SATURATING) <= set(found["safe"])
