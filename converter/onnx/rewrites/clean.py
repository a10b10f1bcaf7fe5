"""What an exporter leaves in a file that no client needs: stack traces, local paths, unused and doubled weights."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from converter.resources import PagesRead

if TYPE_CHECKING:
    import onnx_ir as ir

AXES = ("batch", "length")
NAMED = "batch_size"
"""The first axis of a model that writes text: its axes have the names that clients look for, and keep them."""


def clean_graph(model: "ir.Model") -> int:
    """Remove doc strings, metadata and dead nodes; keep one copy of equal weights; name the dynamic axes.

    Returns how many weights and operators were dropped.
    """
    from onnx_ir.passes import common

    before = len(model.graph) + len(model.graph.initializers)

    common.ClearMetadataAndDocStringPass()(model)
    common.RemoveUnusedNodesPass()(model)
    share_equal_weights(model.graph)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        _name_axes(value)
    # Every runtime infers the shapes between; some of those that tools leave behind are wrong after a rewrite.
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.type = value.shape = None
    model.metadata_props.clear()
    model.graph.name = "encoder"
    model.producer_name, model.producer_version = "plm-export", None
    return before - len(model.graph) - len(model.graph.initializers)


def without_metadata(model: "ir.Model") -> str:
    """Return what is wrong where something is left that an exporter wrote for itself; empty where nothing is."""
    values = [*model.graph.inputs, *model.graph.outputs, *(v for n in model.graph for v in n.outputs)]
    left = [x for x in (model, *model.graph, *values) if x.metadata_props or getattr(x, "doc_string", None)]
    return f"metadata of the exporter in {len(left)} places" if left else ""


def share_equal_weights(graph: "ir.Graph") -> int:
    """Keep one copy of weights equal in type, shape and bytes; returns how many were dropped.

    ALBERT's layers are one layer, but folding transposes and merging projections make a copy for every use.
    """
    import onnx_ir as ir

    kept: dict[tuple[object, ...], ir.Value] = {}
    dropped, pages = 0, PagesRead()
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or value.is_graph_output():
            continue
        array = value.const_value.numpy()
        # `ascontiguousarray` makes a vector of a scalar: the shape is taken before it.
        digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
        pages.add(array.nbytes)
        first = kept.setdefault((array.dtype.str, array.shape, digest), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del graph.initializers[name]
            dropped += 1
    return dropped


def _name_axes(value: "ir.Value") -> None:
    import onnx_ir as ir

    assert value.shape is not None
    if value.shape.dims and getattr(value.shape.dims[0], "value", None) == NAMED:
        return
    rest = [d if isinstance(d, int) else AXES[1] for d in value.shape.dims[1:]]
    value.shape = ir.Shape([AXES[0], *rest])


def shorten_names(model: "ir.Model") -> int:
    """Give values that no client asks for short names: in a small int8 file the exporter's take 20 KB.

    Returns how many were renamed.
    """
    graph = model.graph
    kept = {v.name for v in (*graph.inputs, *graph.outputs)}
    made = [v for n in graph for v in n.outputs if v.name and not v.is_graph_output()]
    weights = list(graph.initializers.values())
    graph.initializers.clear()
    for i, value in enumerate((*made, *weights)):
        value.name = f"_{i:x}"
        assert value.name not in kept
    for value in weights:
        assert value.const_value is not None
        value.const_value.name = value.name
        graph.initializers[str(value.name)] = value
    return len(made) + len(weights)
