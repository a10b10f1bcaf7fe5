"""One graph of a model that writes text with its products in int8, scales at run time or fixed by calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.onnx.quantize.fallback import ALONE_SHARE
from converter.onnx.quantize.fit import fit_products
from converter.onnx.quantize.prepare import Preparation, Watched, watched
from converter.onnx.quantize.written import read_for_rounding, stream_written
from converter.onnx.rewrites.integer_products import quantize_products
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.rewrites.tied_products import quantize_tied_tables
from converter.resources import release_memory
from converter.rewrite import apply_rewrites

if TYPE_CHECKING:
    from converter.examples import Encoding
    from converter.onnx.model import OnnxModel
    from converter.onnx.quantize.prepare import Stream
    from converter.onnx.quantize.ranges import RangeMethod
    from converter.stage import Context


@dataclass(frozen=True)
class IntegerRules:
    """How products are put into int8; `ranges` None: activations are scaled at run time."""

    preparation: Preparation
    ranges: "RangeMethod | None"
    max_noise: float


def write_int8_graph(
    given: "OnnxModel", graph: str, rules: IntegerRules, texts: "Sequence[Encoding]", path: Path, ctx: "Context"
) -> dict[str, Any]:
    """Write one graph of `given` to `path`, in int8; returns the facts.

    A product that would lose more than a share of `max_noise` of its own output stays in float.
    """
    from converter.onnx.rewrites.order import BLOCKWISE, soundness_of
    from converter.onnx.write import write_onnx

    model = read_for_rounding(given.files[graph])
    title, bounded = model.graph.name, rules.preparation.bounded

    def stream(names: Sequence[str], work: Path) -> "Stream":
        return stream_written(model, graph, names, given, texts, work, ctx.progress)

    found = Watched(model, path.parent, list(quantizable(model)), len(texts), stream)
    with watched(found, ctx, rules.preparation, {}) as prepared:
        fit = fit_products(prepared, rules.ranges, ctx.progress, bounded=bounded)
        kept = {n: round(v, 6) for n, v in fit.noise.items() if v > rules.max_noise * ALONE_SHARE}
        chosen = [s for s in prepared.sites if s.node.name not in kept]
        tied = quantize_tied_tables(model, bounded=bounded)
        largest = quantize_products(model, chosen, fit.ranges, bounded=bounded, rounded=fit.weights, shifts=fit.shifts)
        changes = apply_rewrites(BLOCKWISE, model, soundness_of(model))
        model.graph.name = title
        write_onnx(model, path)
    release_memory()
    return {
        **prepared.facts,
        "products": len(chosen),
        "tied_tables": tied,
        "embedding_tables": changes["embedding_tables"],
        "kept_float": kept,
        "largest_weight_pair": largest,
        "noise": dict(sorted(fit.noise.items(), key=lambda item: -item[1])[:10]),
    }
