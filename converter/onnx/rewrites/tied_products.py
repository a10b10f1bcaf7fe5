"""A table that is the output layer too, once in the file in int8: its rows are looked up, and turned it multiplies."""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.attention import DOMAIN
from converter.onnx.rewrites.integer_products import put_integer_product, quantize_input, round_weights
from converter.onnx.rewrites.products import Product, products_of, tables_of
from converter.onnx.rewrites.projections import new_weight
from converter.onnx.rewrites.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_tied_tables(model: "ir.Model", *, bounded: bool = True) -> int:
    """Put every table that products read turned into int8, one scale a row; returns how many.

    A row's scale is the scale of an output of the product, so both read the same bytes. `bounded` as in
    `integer_products.round_weights`.
    """
    by_table: dict[ir.Value, list[Product]] = {}
    for product in products_of(model):
        if product.turned:
            by_table.setdefault(product.stored, []).append(product)
    looked_up = tables_of(model)
    for table, products in by_table.items():
        _quantize(model.graph, table, products, looked_up.get(table, []), bounded=bounded)
        model.opset_imports[DOMAIN] = 1
    return len(by_table)


def _quantize(
    graph: "ir.Graph", table: "ir.Value", products: list[Product], users: "list[ir.Node]", *, bounded: bool
) -> None:
    import onnx_ir as ir

    name = str(table.name)
    made = round_weights(np.ascontiguousarray(products[0].rows().T), bounded=bounded)
    rows = new_weight(graph, np.ascontiguousarray(made.values.T), f"{name}.int8")
    scales = new_weight(graph, made.scales, f"{name}.scales")
    turn = ir.node("Transpose", [rows], {"perm": [1, 0]}, name=f"{name}_int8_turned")
    turn.outputs[0].name = f"{name}_int8_turned"
    graph.insert_before(graph[0], turn)
    for product in products:
        site = Site(product.node)
        put_integer_product(graph, site, quantize_input(graph, site, None), (turn.outputs[0], scales), None)
    for node in users:
        _look_up(graph, node, rows, scales)
    for node in [n for n in table.consumers() if n.op_type == "Transpose" and not n.outputs[0].uses()]:
        graph.remove(node, safe=True)
    if not table.uses():
        del graph.initializers[name]


def _look_up(graph: "ir.Graph", node: "ir.Node", rows: "ir.Value", scales: "ir.Value") -> None:
    import onnx_ir as ir

    base = str(node.outputs[0].name)
    last = f"{base}_last_axis"
    axis = graph.initializers.get(last) or new_weight(graph, np.array([-1], dtype=np.int64), last)
    picked = ir.node("Gather", [rows, node.inputs[1]], name=f"{base}_rows")
    wide = ir.node("Cast", [picked.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{base}_float")
    step = ir.node("Gather", [scales, node.inputs[1]], name=f"{base}_scale")
    apart = ir.node("Unsqueeze", [step.outputs[0], axis], name=f"{base}_scale_apart")
    scaled = ir.node("Mul", [wide.outputs[0], apart.outputs[0]], name=f"{base}_scaled")
    parts = [picked, wide, step, apart, scaled]
    for part in parts:
        part.outputs[0].name = part.name
    graph.insert_before(node, parts)
    ir.convenience.replace_all_uses_with(node.outputs[0], scaled.outputs[0])
    graph.remove(node, safe=True)
