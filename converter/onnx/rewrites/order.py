"""The rewrites of an ONNX graph, in the order in which they run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from converter.onnx.rewrites.attention_masks import shorten_masks
from converter.onnx.rewrites.cached_attention import fuse_cached_attention
from converter.onnx.rewrites.clean import clean_graph, shorten_names, without_metadata
from converter.onnx.rewrites.embeddings import quantize_embeddings
from converter.onnx.rewrites.flat_biases import flatten_biases
from converter.onnx.rewrites.gelu import gelus_for_fusion
from converter.onnx.rewrites.gemms import gemms_as_products, without_gemms
from converter.onnx.rewrites.idle_biases import drop_idle_biases
from converter.onnx.rewrites.joint_heads import split_heads_together
from converter.onnx.rewrites.projections import merge_projections
from converter.onnx.rewrites.reshapes import constant_shapes, products_of_rows
from converter.onnx.rewrites.residuals import residuals_as_sums, without_residual_additions
from converter.onnx.rewrites.root_mean_squares import divide_by_roots
from converter.onnx.rewrites.rows import keep_read_rows, with_shapes
from converter.onnx.rewrites.sequence_first import put_sequence_first, without_attention_operators
from converter.onnx.rewrites.shared_heads import ask_shared_heads
from converter.onnx.rewrites.splits import separate_products
from converter.onnx.rewrites.tied_tables import share_transposed_tables
from converter.onnx.rewrites.transposes import fold_transposes, without_transposed_weights
from converter.rewrite import Rewrite

if TYPE_CHECKING:
    import onnx_ir as ir

EXPORTED: "tuple[Rewrite[ir.Model], ...]" = (
    Rewrite("folded_transposes", fold_transposes, ensures=without_transposed_weights),
    Rewrite("gemms_as_products", gemms_as_products, ensures=without_gemms),
    Rewrite("one_token_nodes", keep_read_rows, requires=with_shapes),
    # Values pass attention's products as they are only while each of the three projections has a bias of its own.
    Rewrite("idle_biases", drop_idle_biases, requires=without_gemms),
    Rewrite("merged_projections", merge_projections, requires=without_gemms),
    Rewrite("residual_sums", residuals_as_sums, ensures=without_residual_additions),
    Rewrite("gelus", gelus_for_fusion),
    Rewrite("cleaned", clean_graph, ensures=without_metadata),
)
"""What an exported graph goes through before it is written in float32."""

WITH_CACHE: "tuple[Rewrite[ir.Model], ...]" = (
    Rewrite("folded_transposes", fold_transposes, ensures=without_transposed_weights),
    Rewrite("gemms_as_products", gemms_as_products, ensures=without_gemms),
    Rewrite("products_of_rows", products_of_rows, requires=with_shapes),
    Rewrite("constant_shapes", constant_shapes, requires=with_shapes),
    Rewrite("shared_heads", ask_shared_heads, requires=with_shapes),
    Rewrite("divided_by_roots", divide_by_roots),
    Rewrite("cleaned", clean_graph, ensures=without_metadata),
    # Behind the folding of transposes, which would turn the table back into a second one.
    Rewrite("tied_tables", share_transposed_tables),
)
"""What the graph of a model that writes text goes through: it is called once a token, for a single row."""

QUANTIZED: "tuple[Rewrite[ir.Model], ...]" = (
    Rewrite("separated_products", separate_products),
    Rewrite("sequence_first", put_sequence_first, ensures=without_attention_operators),
    Rewrite("embedding_tables", quantize_embeddings),
    Rewrite("cleaned", clean_graph, ensures=without_metadata),
    Rewrite("short_names", shorten_names),
)
"""What a graph goes through once its products are in int8."""

BEFORE_ROUNDING: "tuple[Rewrite[ir.Model], ...]" = (
    Rewrite("flat_biases", flatten_biases),
    Rewrite("merged_projections", merge_projections, requires=without_gemms),
    Rewrite("cached_attention", fuse_cached_attention),
    Rewrite("short_masks", shorten_masks),
    # Behind the attention, which is found by the heads of each of its sides.
    Rewrite("joint_heads", split_heads_together),
)
"""What it goes through before: they make the file another runtime's than ONNX's own, and a third faster."""

BLOCKWISE: "tuple[Rewrite[ir.Model], ...]" = (
    Rewrite("embedding_tables", quantize_embeddings),
    Rewrite("cleaned", clean_graph, ensures=without_metadata),
    Rewrite("short_names", shorten_names),
)
"""What the graph of a model that writes text goes through once its products are in few bits."""


def soundness_of(model: "ir.Model") -> "Callable[[ir.Model], str]":
    """Return what tells of the model after a rewrite whether its interface moved, or a value is made nowhere."""
    wanted = _interface(model)

    def unsound(model: "ir.Model") -> str:
        if _interface(model) != wanted:
            return f"inputs and outputs {_interface(model)}, which were {wanted}"
        known = {*model.graph.inputs, *model.graph.initializers.values()}
        for node in model.graph:
            for value in node.inputs:
                if value is not None and value not in known:
                    return f"{value.name}, which {node.op_type} {node.name} reads before anything makes it"
            known.update(node.outputs)
        lost = [str(v.name) for v in model.graph.outputs if v not in known]
        return f"the output {lost[0]} made by nothing" if lost else ""

    return unsound


def _interface(model: "ir.Model") -> tuple[tuple[str | None, ...], tuple[str | None, ...]]:
    return tuple(v.name for v in model.graph.inputs), tuple(v.name for v in model.graph.outputs)
