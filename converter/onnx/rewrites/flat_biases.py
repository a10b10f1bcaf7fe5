"""Biases `[1, out]` as vectors, which products take in: translators keep one so for all words, added at every token."""

from typing import TYPE_CHECKING

from converter.onnx.rewrites.products import product_at
from converter.onnx.rewrites.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir


def flatten_biases(model: "ir.Model") -> int:
    """Give every `Add` of a constant row behind a product by weights the vector; returns how many."""
    changed = 0
    for node in list(model.graph):
        if node.op_type != "Add":
            continue
        for i, given in enumerate(node.inputs):
            other = node.inputs[1 - i]
            maker = None if other is None else other.producer()
            row = is_weight(given, rank=2) and len(array_of(given)) == 1
            product = product_at(maker) if row and maker is not None and maker.op_type == "MatMul" else None
            if given is not None and product is not None and array_of(given).shape[1] == product.shape[1]:
                node.replace_input_with(i, _vector(model.graph, given))
                changed += 1
    return changed


def _vector(graph: "ir.Graph", row: "ir.Value") -> "ir.Value":
    name = f"{row.name}.vector"
    known = graph.initializers.get(name)
    return new_weight(graph, array_of(row).reshape(-1), name) if known is None else known
