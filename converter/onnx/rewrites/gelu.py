"""Exact GELU in the order of operations that ONNX Runtime looks for.

The exporter writes `x · (0.5 · (1 + erf(x / √2)))`; ONNX Runtime fuses `0.5 · (x · (1 + erf(x / √2)))` into one kernel
and leaves the former as five. Halving is exact in floating point, so both give the same bits.
"""

from typing import TYPE_CHECKING

from converter.onnx.rewrites.projections import scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir


def gelus_for_fusion(model: "ir.Model") -> int:
    """Reorder every such GELU in place; returns how many."""
    found = [n for n in model.graph if n.op_type == "Mul" and _half(n) is not None]
    for node in found:
        _reorder(model.graph, node)
    return len(found)


def _half(node: "ir.Node") -> "ir.Node | None":
    """Return the inner `0.5 · (1 + erf(x / √2))` of `x · (0.5 · …)`; None where `node` is no such product."""
    for given, other in (node.inputs, reversed(node.inputs)):
        inner = other.producer() if other is not None else None
        if inner is None or inner.op_type != "Mul" or len(inner.outputs[0].consumers()) != 1:
            continue
        total = next((v for v in inner.inputs if v is not None and scalar_of(v) is None), None)
        halves = [scalar_of(v) for v in inner.inputs if v is not total]
        if halves == [0.5] and total is not None and _is_one_plus_erf(total, given):
            return inner
    return None


def _is_one_plus_erf(total: "ir.Value", given: "ir.Value | None") -> bool:
    add = total.producer()
    if add is None or add.op_type != "Add" or not any(scalar_of(v) == 1.0 for v in add.inputs):
        return False
    erf = next((v.producer() for v in add.inputs if v is not None and v.producer() is not None), None)
    if erf is None or erf.op_type != "Erf" or erf.inputs[0] is None:
        return False
    scaled = erf.inputs[0].producer()
    return scaled is not None and scaled.op_type in {"Div", "Mul"} and scaled.inputs[0] is given


def _reorder(graph: "ir.Graph", node: "ir.Node") -> None:
    import onnx_ir as ir

    inner = _half(node)
    assert inner is not None
    half = next(v for v in inner.inputs if scalar_of(v) is not None)
    total = next(v for v in inner.inputs if v is not half)
    given = next(v for v in node.inputs if v is not inner.outputs[0])
    name = str(node.outputs[0].name)
    product = ir.node("Mul", [given, total], name=f"{name}_product")
    product.outputs[0].name = f"{name}_product"
    made = ir.node("Mul", [product.outputs[0], half], name=f"{name}_half")
    made.outputs[0].name = f"{name}_half"
    graph.insert_before(node, [product, made])
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    ir.convenience.replace_all_uses_with(node.outputs[0], made.outputs[0])
    graph.remove([node, inner], safe=True)
