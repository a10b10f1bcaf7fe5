"""Embedding tables in int8, with one scale a row: a quarter of the bytes at a rounding nobody sees.

The scales are themselves whole multiples of one number, in 8 bits (double quantization, QLoRA, arXiv 2305.14314): of a
vocabulary of 30 000 words they would take another 122 KB.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

MIN_ROWS = 64
"""Smaller tables (token types) save no bytes worth a node."""
ROWS = 4096
"""Rounded at a time: a table is the largest matrix that many models have."""
MIN_WIDTH = 16
"""Of a narrower table (a codebook, scales) the scales a row would take what int8 saves."""


def quantize_embeddings(model: "ir.Model") -> int:
    """Store every table that only `Gather` reads as int8 `[rows, width]` with a scale a row; returns how many."""
    tables = {
        table
        for node in model.graph
        if node.op_type == "Gather" and _axis(node) == 0
        if (table := node.inputs[0]) is not None and is_weight(table, rank=2)
    }
    made = 0
    for table in sorted(tables, key=lambda v: str(v.name)):
        array = array_of(table)
        users = table.consumers()
        large = array.dtype == np.float32 and len(array) >= MIN_ROWS and array.shape[1] >= MIN_WIDTH
        if large and all(u.op_type == "Gather" for u in users):
            _quantize(model.graph, table, array, list(users))
            made += 1
    return made


def _axis(node: "ir.Node") -> int:
    attribute = node.attributes.get("axis")
    return 0 if attribute is None else attribute.as_int()


def _quantize(graph: "ir.Graph", table: "ir.Value", array: "np.ndarray", users: "list[ir.Node]") -> None:
    import onnx_ir as ir

    name = str(table.name)
    values, multiples, unit = round_rows(array)
    rows = new_weight(graph, values, f"{name}.int8")
    scale = new_weight(graph, multiples, f"{name}.scale")
    unit_value = new_weight(graph, np.array(unit), f"{name}.scale_unit")
    for node in users:
        base = str(node.outputs[0].name)
        picked = ir.node("Gather", [rows, node.inputs[1]], name=f"{base}_rows")
        wide = ir.node("Cast", [picked.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{base}_float")
        step = ir.node("Gather", [scale, node.inputs[1]], name=f"{base}_scale")
        factor = ir.node("DequantizeLinear", [step.outputs[0], unit_value], name=f"{base}_factor")
        scaled = ir.node("Mul", [wide.outputs[0], factor.outputs[0]], name=f"{base}_scaled")
        parts = {"rows": picked, "float": wide, "scale": step, "factor": factor, "scaled": scaled}
        for suffix, made in parts.items():
            made.outputs[0].name = f"{base}_{suffix}"
        graph.insert_before(node, list(parts.values()))
        scaled.outputs[0].type, scaled.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        ir.convenience.replace_all_uses_with(node.outputs[0], scaled.outputs[0])
        graph.remove(node, safe=True)
    del graph.initializers[name]


def round_rows(
    table: "NDArray[np.float32]",
) -> "tuple[NDArray[np.int8], NDArray[np.uint8], np.float32]":
    """Return int8 rows, the multiples `[rows, 1]` of a unit that their scales are, and that unit."""
    parts = [slice(i, i + ROWS) for i in range(0, len(table), ROWS)]
    needed = np.concatenate([np.abs(table[part]).max(axis=1, keepdims=True) for part in parts]) / np.float32(127)
    unit = np.float32(max(float(needed.max()) / 255, 1e-12))
    # Rounded up: the largest number of a row still fits. Rounded before the row is: the row makes up for it.
    multiples = np.clip(np.ceil(needed / unit), 1, 255).astype(np.uint8)
    values = np.empty(table.shape, dtype=np.int8)
    for part in parts:
        values[part] = np.clip(np.rint(table[part] / (multiples[part] * unit)), -127, 127)
    return values, multiples, unit
