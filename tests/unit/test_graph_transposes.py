"""A shared weight is turned once, for all its readers."""

import numpy as np
import onnx_ir as ir

from converter.onnx.rewrites.transposes import fold_transposes


def graph(order: list[int]) -> ir.Model:
    weight = ir.Value(name="w", const_value=ir.tensor(np.arange(6, dtype=np.float32).reshape(2, 3)))
    given = [ir.Value(name=f"x{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 3])) for i in range(2)]
    nodes = []
    for x in given:
        turned = ir.node("Transpose", [weight], {"perm": order})
        nodes += [turned, ir.node("MatMul", [x, turned.outputs[0]])]
    outputs = [nodes[1].outputs[0], nodes[3].outputs[0]]
    made = ir.Graph(given, outputs, nodes=nodes, initializers=[weight], opset_imports={"": 18})
    return ir.Model(made, ir_version=10)


def test_a_weight_that_two_products_read_turned_is_stored_turned_once() -> None:
    model = graph([1, 0])
    assert fold_transposes(model) == 2
    assert [n.op_type for n in model.graph] == ["MatMul", "MatMul"]
    assert len({id(n.inputs[1]) for n in model.graph}) == 1
    assert list(model.graph.initializers) == ["w.transposed"]
    kept = model.graph.initializers["w.transposed"].const_value
    assert kept is not None
    np.testing.assert_array_equal(kept.numpy(), np.arange(6, dtype=np.float32).reshape(2, 3).T)


def test_a_transpose_that_keeps_the_order_is_left_alone() -> None:
    model = graph([0, 1])
    assert fold_transposes(model) == 0
    assert [n.op_type for n in model.graph] == ["Transpose", "MatMul"] * 2
