"""`Gemm` by constant weights as `MatMul` and `Add`: the one form that the other rewrites and the quantizers know."""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir


def gemms_as_products(model: "ir.Model") -> int:
    """Rewrite every plain `Gemm` (factors of 1, first input as it is); returns how many."""
    found = [n for n in model.graph if n.op_type == "Gemm" and _is_plain(n)]
    for node in found:
        _rewrite(model.graph, node)
    return len(found)


def without_gemms(model: "ir.Model") -> str:
    """Return what is wrong where a plain `Gemm` is left, which no later rewrite would see; empty where none is."""
    left = [n for n in model.graph if n.op_type == "Gemm" and _is_plain(n)]
    return f"{len(left)} plain Gemm operators" if left else ""


def _is_plain(node: "ir.Node") -> bool:
    values = {name: a.value for name, a in node.attributes.items()}
    plain = values.get("alpha", 1.0) == values.get("beta", 1.0) == 1.0 and not values.get("transA", 0)
    bias = _bias(node)
    return plain and is_weight(node.inputs[1], rank=2) and (bias is None or is_weight(bias, rank=1))


def _bias(node: "ir.Node") -> "ir.Value | None":
    """Return what is added; None where nothing is: the exporter drops a bias of zeros."""
    return node.inputs[2] if len(node.inputs) == 3 else None


def _rewrite(graph: "ir.Graph", node: "ir.Node") -> None:
    import onnx_ir as ir

    name = str(node.outputs[0].name)
    given, weight, bias = node.inputs[0], node.inputs[1], _bias(node)
    if "transB" in node.attributes and node.attributes["transB"].as_int():
        weight = new_weight(graph, np.ascontiguousarray(array_of(weight).T), f"{name}.weight")
    product = ir.node("MatMul", [given, weight], name=f"{name}_product")
    product.outputs[0].name = f"{name}_product"
    made = [product]
    if bias is not None:
        made.append(ir.node("Add", [product.outputs[0], bias], name=f"{name}_bias"))
        made[-1].outputs[0].name = f"{name}_total"
    graph.insert_before(node, made)
    total, old = made[-1].outputs[0], node.outputs[0]
    total.type, total.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, total, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if total.is_graph_output():
        total.name, old.name = name, None
