"""Norms by the root mean square, written so that ONNX Runtime knows them: one operator at load, where seven stood."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def divide_by_roots(model: "ir.Model") -> int:
    """Divide by a root where the exporter multiplies by its reciprocal; returns how many."""
    import onnx_ir as ir

    changed = 0
    for node in list(model.graph):
        if node.op_type != "Mul":
            continue
        for place, factor in enumerate(node.inputs):
            maker = None if factor is None else factor.producer()
            root = None if maker is None or maker.op_type != "Reciprocal" else maker.inputs[0]
            other = node.inputs[1 - place]
            if root is None or other is None or root.producer() is None or root.producer().op_type != "Sqrt":  # type: ignore[union-attr]
                continue
            old, name = node.outputs[0], str(node.outputs[0].name)
            made = ir.node("Div", [other, root], name=f"{node.name}_by_root")
            made.outputs[0].type, made.outputs[0].shape = old.type, old.shape
            model.graph.insert_before(node, made)
            ir.convenience.replace_all_uses_with(old, made.outputs[0], replace_graph_outputs=True)
            old.name, made.outputs[0].name = f"{name}_before", name
            model.graph.remove(node, safe=True)
            if maker is not None and not maker.outputs[0].uses():
                model.graph.remove(maker, safe=True)
            changed += 1
            break
    return changed
