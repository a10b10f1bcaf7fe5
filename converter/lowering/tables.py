"""Embedding tables in int8, one scale a row: more than half of a small model."""

from typing import Any

import numpy as np

from converter.lowering.flat import add_buffer, add_tensor, code_of, constant, inputs_of, outputs_of, shape_of, text
from converter.lowering.positions import operation

LARGE = 4096
"""Rows from which scales are looked up beside the rows. A runtime wants a zero point of 8 bytes beside every scale in a
tensor's own list, and most of such a list is for words that no text has."""
COARSER = 1.05
"""Largest mean growth of a step, where scales are rounded up to whole multiples of one unit and take a byte each."""
CHUNK = 4096
"""Rows that are quantized at a time."""


def quantize_tables(model: Any) -> list[str]:
    """Quantize every float table that rows are looked up in; returns their names."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    made: dict[int, _Table] = {}
    names: list[str] = []
    for graph in model.subgraphs:
        operators = []
        for op in graph.operators:
            operators.append(op)
            if code_of(model, op) != BuiltinOperator.EMBEDDING_LOOKUP:
                continue
            rows, held = inputs_of(op)
            table = graph.tensors[held]
            if table.type == TensorType.FLOAT32:
                if table.buffer not in made:
                    made[table.buffer] = _Table(model, table)
                    names.append(text(table.name))
                made_by = made[table.buffer]
                table.type = TensorType.INT8
                operators += made_by.use(graph, op, table, rows)
        graph.operators = operators
    return names


class _Table:
    """One table in int8, as two buffers at most: the rows, and their scales where there are many."""

    def __init__(self, model: Any, tensor: Any) -> None:
        values = constant(model, tensor)
        assert values is not None, "a table is constant"
        self.model, self.width = model, values.shape[1]
        scales = np.concatenate([np.abs(part).max(axis=1) for part in _chunks(values)]).astype(np.float64) / 127
        scales[scales == 0] = scales.max() or 1.0
        self.unit = float(scales.max() / 127)
        # Rounding may lift the largest above 127, which is the last that a byte holds.
        multiples = np.minimum(np.ceil(scales / self.unit), 127)
        self.rounded = len(scales) >= LARGE and float((multiples * self.unit / scales).mean()) <= COARSER
        self.scales = multiples * self.unit if self.rounded else scales
        self.apart = len(scales) >= LARGE
        parts = zip(_chunks(values), _chunks(self.scales[:, None]), strict=True)
        rows = np.concatenate([np.clip(np.rint(part / s), -127, 127).astype(np.int8) for part, s in parts])
        self.rows = add_buffer(model, rows)
        multiples = multiples.astype(np.int8) if self.rounded else scales.astype(np.float32)
        self.multiples = add_buffer(model, multiples) if self.apart else 0

    def use(self, graph: Any, op: Any, table: Any, rows: int) -> list[Any]:
        """Turn `table` into this one; returns the operations that follow the look-up."""
        from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, MulOptionsT, TensorType

        table.buffer = self.rows
        if not self.apart:
            table.quantization = _scaled(self.scales)
            return []
        table.quantization = _scaled(np.array([self.unit if self.rounded else 1.0]))
        made = outputs_of(op)[0]
        out, name = graph.tensors[made], text(table.name)
        count = len(self.scales)
        kind = TensorType.INT8 if self.rounded else TensorType.FLOAT32
        held = add_tensor(graph, f"{name}/scales", (count, 1), kind, self.multiples)
        if self.rounded:
            graph.tensors[held].quantization = _scaled(np.array([1.0]))
        found, scale = (add_tensor(graph, f"{name}/{n}", shape_of(out), TensorType.FLOAT32) for n in ("row", "scale"))
        graph.tensors[scale].shape = np.array([shape_of(out)[0], 1], np.int32)
        op.outputs = np.array([found], np.int32)
        if out.shapeSignature is not None:
            graph.tensors[found].shapeSignature = out.shapeSignature
            graph.tensors[scale].shapeSignature = np.array([out.shapeSignature[0], 1], np.int32)
        return [
            operation(self.model, BuiltinOperator.EMBEDDING_LOOKUP, [rows, held], scale),
            operation(
                self.model, BuiltinOperator.MUL, [found, scale], made, (BuiltinOptions.MulOptions, MulOptionsT())
            ),
        ]


def _scaled(scales: "np.ndarray[Any, Any]") -> Any:
    from ai_edge_litert.schema_py_generated import QuantizationParametersT

    return QuantizationParametersT(
        scale=scales.astype(np.float32), zeroPoint=np.zeros(len(scales), np.int64), quantizedDimension=0
    )


def _chunks(values: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
    return [values[i : i + CHUNK] for i in range(0, len(values), CHUNK)]
