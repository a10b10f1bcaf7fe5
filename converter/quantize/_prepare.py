"""What dynamic and static int8 share: sites, smoothing, embeddings."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.graph.activations import stream_activations
from converter.graph.attention import attention_biases, fuse_attention
from converter.graph.clean import clean_graph
from converter.graph.embeddings import quantize_embeddings
from converter.graph.padding import padding_masks
from converter.graph.sites import quantizable
from converter.graph.smoothing import apply_smoothing, collect_rows, plan_smoothing
from converter.memory import release_memory

if TYPE_CHECKING:
    import onnx_ir as ir

    from converter.artifact import OnnxModel
    from converter.graph.sites import Site
    from converter.stage import Context

SMOOTHING_TEXTS = 32


@dataclass(frozen=True)
class Prepared:
    """A float graph that is ready for int8: smoothed, with the names of the products to quantize."""

    model: "ir.Model"
    folder: Path
    nodes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def sites(self) -> "list[Site]":
        """The products to quantize, as they are after smoothing."""
        wanted = set(self.nodes)
        return [s for s in quantizable(self.model) if s.node.name in wanted]


def prepare(given: "OnnxModel", folder: Path, ctx: "Context", *, smooth: bool, fuse: bool = False) -> Prepared:
    """Load `given` and move outlier channels into the weights, judged on the calibration text.

    `fuse` writes attention as ONNX Runtime's own operator first: faster, but no longer standard ONNX.
    """
    from converter.graph.read import read_onnx

    folder.mkdir(exist_ok=True)
    model = read_onnx(given.path)
    sites = list(quantizable(model))
    facts: dict[str, Any] = {"products": len(sites)}
    if fuse:
        masks = padding_masks(given.path, attention_biases(model), given.source.max_length)
        facts["fused_attentions"] = fuse_attention(model, masks)
    if smooth and sites and ctx.calibration:
        names = list(dict.fromkeys(str(s.given.name) for s in sites))
        texts = ctx.calibration[:SMOOTHING_TEXTS]
        rows = collect_rows(stream_activations(model, names, given.source, texts, folder, ctx.progress), names)
        with ctx.progress.task("Smoothing outlier channels"):
            plans = plan_smoothing(sites, rows)
            apply_smoothing(model, sites, plans)
        facts["smoothed"] = {p.weight: round(p.error_ratio, 4) for p in plans}
    return Prepared(model, folder, tuple(str(s.node.name) for s in sites), facts)


def finish(model: "ir.Model", folder: Path) -> int:
    """Put the embeddings into int8 and write `model.onnx`, clean; returns how many tables there were."""
    from converter.graph.sequence_first import put_sequence_first
    from converter.graph.splits import separate_products
    from converter.graph.write import write_onnx

    separate_products(model)
    put_sequence_first(model)
    tables = quantize_embeddings(model)
    clean_graph(model)
    write_onnx(model, folder / "model.onnx")
    release_memory()
    return tables


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """ONNX Runtime's quantizer asks on the root logger for a preprocessing that `prepare` has made needless."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
