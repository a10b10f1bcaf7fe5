"""Values that half precision cannot hold, found by running the float graph on text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import StageFailed
from converter.onnx.quantize.written import largest_of, stream_written

if TYPE_CHECKING:
    import onnx_ir as ir

    from converter.examples import Encoding
    from converter.onnx.model import OnnxModel
    from converter.stage import Context

MAX_HALF = 65504.0
ROOM = 4.0
"""What text shows at most is taken times this: other text may show more."""
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "IsNaN", "IsInf")


def overflowing_nodes(
    model: "ir.Model", graph: str, given: "OnnxModel", texts: "Sequence[Encoding]", folder: Path, ctx: "Context"
) -> tuple[list[str], float]:
    """Return the nodes of a graph of `given` that make or read values too large for half precision, and the largest.

    Raises:
        StageFailed: a value is not finite in float32.

    """
    values = {str(v.name): v for v in float_values(model) if not v.is_graph_output()}
    largest = dict.fromkeys(values, 0.0)
    if not texts:
        return [], 0.0
    for seen in stream_written(model, graph, tuple(values), given, texts, folder, ctx.progress, largest_of):
        for name, sizes in seen.items():
            found = float(sizes.max())
            if not np.isfinite(found):
                raise StageFailed(f"{name} of {graph} is {found}", where=given.source.provenance.id)
            largest[name] = max(largest[name], found)
    wide = [values[name] for name, size in largest.items() if size * ROOM > MAX_HALF]
    nodes = {n for v in wide for n in (v.producer(), *v.consumers()) if n is not None}
    return [str(n.name) for n in model.graph if n in nodes], max(largest.values(), default=0.0)


def float_values(model: "ir.Model") -> "Iterator[ir.Value]":
    """Yield the computed values that are float32, told by what they are computed from."""
    import onnx_ir as ir

    integers = {"Shape", "Size", "NonZero", "ArgMax", "Range"}
    known = {v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT}
    for node in model.graph:
        if node.op_type == "Cast":
            is_float = node.attributes["to"].as_int() == int(ir.DataType.FLOAT)
        elif node.op_type in integers or node.op_type in COMPARISONS:
            is_float = False
        else:
            # `Where` chooses between its second and third input; everything else keeps the type of its first.
            is_float = node.inputs[1 if node.op_type == "Where" else 0] in known
        if is_float:
            known.update(node.outputs)
            yield from node.outputs
