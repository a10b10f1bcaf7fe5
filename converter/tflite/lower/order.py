"""The rewrites of a lowered TFLite graph, in the order in which they run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.rewrite import Rewrite
from converter.tflite.derived import Derived
from converter.tflite.file import inputs_of, outputs_of
from converter.tflite.lower.narrow import narrow
from converter.tflite.lower.norm import keep_axes
from converter.tflite.lower.scale import fold_scales
from converter.tflite.lower.shift import fold_shifts

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Tensor


@dataclass(frozen=True)
class Subgraph:
    """One signature's graph in its file, and the constants that all graphs of the file derive alike."""

    model: "Model"
    graph: "Graph"
    derived: Derived


LOWERED = (
    Rewrite[Subgraph]("folded_scales", lambda s: fold_scales(s.model, s.graph, s.derived)),
    Rewrite[Subgraph]("kept_axes", lambda s: keep_axes(s.model, s.graph)),
    # A shift is found as the subtraction that lowering writes: before anything is cut to one token.
    Rewrite[Subgraph]("folded_shifts", lambda s: fold_shifts(s.model, s.graph, s.derived)),
)
"""What every graph goes through first, one graph after the other: they share what they derive."""
NARROWED = (Rewrite[Subgraph]("narrowed_to_one_token", lambda s: narrow(s.model, s.graph)),)
"""Then, when all graphs are alike but for their length."""


def unsound(subgraph: Subgraph) -> str:
    """Return what is wrong where an operation reads what nothing has made before it; empty where all is well."""
    model, graph = subgraph.model, subgraph.graph
    known = {int(t) for t in graph.inputs}
    for number, operation in enumerate(graph.operators):
        for tensor in inputs_of(operation):
            if tensor >= 0 and tensor not in known and not _is_constant(model, graph.tensors[tensor]):
                return f"tensor {tensor}, which operation {number} reads before anything makes it"
        known.update(outputs_of(operation))
    lost = [int(t) for t in graph.outputs if int(t) not in known]
    return f"the output tensor {lost[0]} made by nothing" if lost else ""


def _is_constant(model: "Model", tensor: "Tensor") -> bool:
    return model.buffers[tensor.buffer].data is not None
