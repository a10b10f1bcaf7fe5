"""Merged projections taken apart again, once their input is quantized: three products, and no copy of their parts.

Queries, keys and values are one product until they are quantized, so that they share one scale of their input. What
`Split` then copies out of it, three products write where it is wanted, in the same time.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.attention import DOMAIN
from converter.onnx.rewrites.projections import array_of, is_weight, later_weight, tensor_of

if TYPE_CHECKING:
    import onnx_ir as ir

BY_OUTPUT = (1, 3, 6)
"""Inputs of `MatMulIntegerToFloat` that have one number, or one column, for every output: weights, scales, bias."""
BIAS, BIAS_FREE = 6, 5
"""The bias's place, and how many inputs there are without it (the one before it is optional, too)."""


def separate_products(model: "ir.Model") -> int:
    """Write a product for each part of every integer product that is only split; returns how many were."""
    found = [n for n in model.graph if n.op_type == "Split" and _product(n) is not None]
    for split in found:
        product = _product(split)
        assert product is not None
        _separate(model.graph, product, split)
    return len(found)


def _product(split: "ir.Node") -> "ir.Node | None":
    """Return the integer product that `split`, by constant sizes of the last axis, alone reads."""
    given = split.inputs[0]
    node = given.producer() if given is not None else None
    if node is None or node.op_type != "MatMulIntegerToFloat" or len(node.outputs[0].uses()) != 1:
        return None
    by_output = [node.inputs[i] for i in BY_OUTPUT if i < len(node.inputs) and node.inputs[i] is not None]
    last = "axis" in split.attributes and split.attributes["axis"].as_int() == -1
    sized = len(split.inputs) > 1 and is_weight(split.inputs[1], rank=1)
    return node if last and sized and all(is_weight(v) for v in by_output) else None


def _separate(graph: "ir.Graph", product: "ir.Node", split: "ir.Node") -> None:
    import onnx_ir as ir

    ends = np.cumsum(array_of(split.inputs[1])).tolist()
    for part, (start, end) in zip(split.outputs, zip([0, *ends], ends, strict=False), strict=True):
        inputs = list(product.inputs)
        for i in BY_OUTPUT:
            if i < len(inputs) and (whole := inputs[i]) is not None:
                inputs[i] = _part(graph, whole, start, end)
        if len(inputs) > BIAS and not array_of(inputs[BIAS]).any():
            # `drop_idle_biases` left nothing to add.
            inputs = inputs[:BIAS_FREE]
        node = ir.node(product.op_type, inputs, domain=DOMAIN, name=f"{part.name}_integer")
        node.outputs[0].name = f"{part.name}_integer"
        graph.insert_before(split, node)
        ir.convenience.replace_all_uses_with(part, node.outputs[0])
    graph.remove(split, safe=True)
    graph.remove(product, safe=True)
    unused = [v for v in graph.initializers.values() if not v.uses() and not v.is_graph_output()]
    for value in unused:
        del graph.initializers[str(value.name)]


def _part(graph: "ir.Graph", whole: "ir.Value", start: int, end: int) -> "ir.Value":
    """Return outputs `start` to `end` of a weight, cut once: layers can share it."""
    name = f"{whole.name}.{start}"
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = tensor_of(whole)
    shape = (*tensor.shape.numpy()[:-1], end - start)
    return later_weight(graph, lambda: np.ascontiguousarray(tensor.numpy()[..., start:end]), tensor.dtype, shape, name)
