"""A table that is the output layer too, once in the file: the exporter stores it a second time, turned."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight

if TYPE_CHECKING:
    import onnx_ir as ir

MIN_BYTES = 4096
"""Below that a `Transpose` is not worth what it saves."""


def share_transposed_tables(model: "ir.Model") -> int:
    """Read every weight that is another one turned from that other one; returns how many went.

    Runtimes fold the `Transpose` when they load the file, so it costs nothing at a call.
    """
    import onnx_ir as ir

    graph = model.graph
    tables = {
        table
        for n in graph
        if n.op_type == "Gather" and (table := n.inputs[0]) is not None and is_weight(table, rank=2)
    }
    shapes = {_shape(t)[::-1] for t in tables}
    by_digest = {_digest(array_of(t).T): t for t in sorted(tables, key=lambda v: str(v.name))}
    gone = 0
    for name, value in list(graph.initializers.items()):
        if value in tables or not is_weight(value, rank=2) or _shape(value) not in shapes:
            continue
        known = by_digest.get(_digest(array_of(value)))
        if known is None or array_of(value).nbytes < MIN_BYTES:
            continue
        node = ir.node("Transpose", [known], {"perm": [1, 0]}, name=f"{name}_turned")
        node.outputs[0].name = f"{name}_turned"
        graph.insert_before(graph[0], node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del graph.initializers[name]
        gone += 1
    return gone


def _shape(value: "ir.Value") -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _digest(array: "np.ndarray") -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
