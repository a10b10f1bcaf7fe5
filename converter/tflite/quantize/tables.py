"""Embedding tables in int8 or int4, one scale a row: more than half of a small model."""

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import add_buffer, add_tensor, code_of, constant, inputs_of, outputs_of, shape_of, text
from converter.tflite.positions import operation

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator, Tensor

LARGE = 4096
"""Rows from which scales are looked up beside the rows. A runtime wants a zero point of 8 bytes beside every scale in a
tensor's own list, and most of such a list is for words that no text has."""
COARSER = 1.05
"""Largest mean growth of a step, where scales are rounded up to whole multiples of one unit and take a byte each."""
CHUNK = 4096
"""Rows that are quantized at a time."""
FEW = 16
"""Rows up to which a table stays float: it weighs nothing, and a row is copied quicker than it is scaled."""

CLIPPED = tuple(float(x) for x in np.linspace(0.5, 1.0, 21))
"""Shares of a row's largest value that 4 bits may reach up to: the one with least squared error is taken. With all of
it, a table in int4 turned three times as many answers of MiniLM."""


def quantize_tables(model: "Model", bits: int = 8) -> list[str]:
    """Quantize every float table that many rows are looked up in; returns their names.

    In 4 bits it is those of many rows: the small ones weigh nothing.
    """
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
            if constant(model, table) is None:
                continue  # rows of what the graph computes
            if table.type == TensorType.FLOAT32 and shape_of(table)[0] > FEW:
                if table.buffer not in made:
                    made[table.buffer] = _Table(model, table, bits)
                    names.append(text(table.name))
                made_by = made[table.buffer]
                table.type = TensorType.INT4 if made_by.bits == 4 else TensorType.INT8
                operators += made_by.use(graph, op, table, rows)
        graph.operators = operators
    return names


class _Table:
    """One table in `bits`, as two buffers at most: the rows, and their scales where there are many."""

    def __init__(self, model: "Model", tensor: "Tensor", bits: int) -> None:
        values = constant(model, tensor)
        assert values is not None, "a table is constant"
        self.model, self.width = model, values.shape[1]
        self.bits = bits if len(values) >= LARGE and self.width % 2 == 0 else 8
        largest = 2 ** (self.bits - 1) - 1
        scales = np.concatenate([_row_scales(part, largest) for part in _chunks(values)])
        scales[scales == 0] = scales.max() or 1.0
        self.unit = float(scales.max() / 127)
        # Up, so that nothing is clipped; where 4 bits clip anyway, to the nearest. None above 127, a byte's last.
        multiples = np.clip((np.ceil if self.bits == 8 else np.rint)(scales / self.unit), 1, 127)
        self.rounded = len(scales) >= LARGE and float((multiples * self.unit / scales).mean()) <= COARSER
        self.scales = multiples * self.unit if self.rounded else scales
        self.apart = len(scales) >= LARGE
        parts = zip(_chunks(values), _chunks(self.scales[:, None]), strict=True)
        rows = np.concatenate([np.clip(np.rint(part / s), -largest, largest).astype(np.int8) for part, s in parts])
        self.rows = add_buffer(model, packed_int4(rows) if self.bits == 4 else rows)
        multiples = multiples.astype(np.int8) if self.rounded else scales.astype(np.float32)
        self.multiples = add_buffer(model, multiples) if self.apart else 0

    def use(self, graph: "Graph", op: "Operator", table: "Tensor", rows: int) -> "list[Operator]":
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


def _row_scales(rows: "np.ndarray[Any, Any]", largest: int) -> "np.ndarray[Any, Any]":
    """Return a scale for each of `rows`: to its largest value in 8 bits, where squares are least in fewer."""
    reach = np.abs(rows).max(axis=1).astype(np.float64) / largest
    if largest == 127:
        return reach
    best, least = reach, np.full(len(rows), np.inf)
    for share in CLIPPED:
        steps = np.maximum(reach * share, 1e-30)[:, None]
        lost = np.square(np.clip(np.rint(rows / steps), -largest, largest) * steps - rows).sum(axis=1)
        best, least = np.where(lost < least, reach * share, best), np.minimum(lost, least)
    return best


def packed_int4(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return bytes of two values each, the first in the lower half."""
    pairs = values.reshape(-1, 2).astype(np.uint8) & 0xF
    return np.asarray(pairs[:, 0] | (pairs[:, 1] << 4), dtype=np.uint8)


def _scaled(scales: "np.ndarray[Any, Any]") -> Any:
    from ai_edge_litert.schema_py_generated import QuantizationParametersT

    return QuantizationParametersT(
        scale=scales.astype(np.float32), zeroPoint=np.zeros(len(scales), np.int64), quantizedDimension=0
    )


def _chunks(values: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
    return [values[i : i + CHUNK] for i in range(0, len(values), CHUNK)]
