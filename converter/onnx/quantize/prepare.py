"""What all int8 precisions share: the products, what flows into them, smoothing, and writing the file."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample
from converter.errors import StageFailed
from converter.graphs import MODEL
from converter.onnx.activations import stream_activations
from converter.onnx.quantize.errors import ProductInputs
from converter.onnx.quantize.factors import search_factors
from converter.onnx.quantize.folder import scratch_in
from converter.onnx.quantize.observed import Observed
from converter.onnx.rewrites.attention import attention_biases, fuse_attention
from converter.onnx.rewrites.padding import padding_masks
from converter.onnx.rewrites.projections import array_of
from converter.onnx.rewrites.sites import quantizable
from converter.onnx.rewrites.smoothing import Smoothing, apply_smoothing, folds_into_values
from converter.resources import release_memory
from converter.rewrite import apply_rewrites

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.onnx.model import OnnxModel
    from converter.onnx.rewrites.sites import Site
    from converter.stage import Context, Progress

    Stream = Generator[dict[str, NDArray[np.float32]], None, None]

SEARCH_ROWS = 512
"""Tokens that factors and ranges are tried on."""
WORTH = 0.7
"""An extra multiplication must leave at most this share of the squared error, else the product is left as it is."""
FREE_WORTH = 0.97
"""The same where the factors fold into weights on both sides and cost nothing."""


@dataclass(frozen=True)
class Preparation:
    """How a model is to be prepared."""

    smooth: bool
    bounded: bool
    fuse: bool
    """Write attention as ONNX Runtime's own operator first: faster, but no longer standard ONNX."""
    texts: int


@dataclass(frozen=True)
class Prepared:
    """A float graph that is ready for int8: smoothed, with the names of the products to quantize."""

    model: "ir.Model"
    folder: Path
    """For what is needed until the quantized file is written, and no longer."""
    nodes: tuple[str, ...]
    given_names: dict[str, str]
    """What each product read before smoothing, by node name: `observed` knows it by that."""
    factors: "dict[str, NDArray[np.float32]]"
    """What it was divided by since."""
    observed: Observed | None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> "list[Site]":
        """The products to quantize, as they are after smoothing."""
        return self.sites_of(self.model)

    def sites_of(self, model: "ir.Model") -> "list[Site]":
        """Return the same products of a copy of the model."""
        wanted = set(self.nodes)
        return [s for s in quantizable(model) if s.node.name in wanted]

    def rows(self, site: "Site", limit: int | None = None) -> "NDArray[np.float32]":
        """Return tokens `[n, in]` as the product reads them now."""
        assert self.observed is not None
        rows, factors = self.observed.rows(self._name(site), limit), self.factors.get(str(site.node.name))
        return rows if factors is None else rows / factors

    def extremes(self, site: "Site") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return least and largest value of every channel, as the product reads it now."""
        assert self.observed is not None
        low, high = self.observed.extremes(self._name(site))
        factors = self.factors.get(str(site.node.name), np.float32(1))
        return low / factors, high / factors

    def rounded_file(self, i: int) -> Path:
        """Return where the `i`th weight lies, once it is rounded."""
        return self.folder / f"rounded-{i}.int8"

    def _name(self, site: "Site") -> str:
        return self.given_names[str(site.node.name)]


@contextmanager
def prepare(given: "OnnxModel", folder: Path, ctx: "Context", preparation: Preparation) -> Iterator[Prepared]:
    """Load `given`, watch what flows into its products on the calibration text, and smooth what has outliers.

    What is written to `folder` on the way is there for as long as this is entered.

    Raises:
        StageFailed: an activation is not finite.

    """
    from converter.onnx.read import read_onnx

    model = read_onnx(given.files[MODEL])
    sites = list(quantizable(model))
    facts: dict[str, Any] = {"products": len(sites)}
    if preparation.fuse:
        spec, longest = given.source.specs[MODEL], given.source.max_length
        masks = padding_masks(given.files[MODEL], attention_biases(model), spec, longest)
        facts["fused_attentions"] = fuse_attention(model, masks)
    # Files are often sorted by origin: the first texts are of one kind.
    texts = even_sample(ctx.calibration, preparation.texts)

    def stream(names: Sequence[str], work: Path) -> "Stream":
        return stream_activations(model, names, given.source, texts, work, ctx.progress)

    with watched(Watched(model, folder, sites, len(texts), stream), ctx, preparation, facts) as made:
        yield made


@dataclass(frozen=True)
class Watched:
    """A graph, its products, and what gives the values of some names on each of `n_texts` texts, by way of a folder."""

    model: "ir.Model"
    folder: Path
    sites: "list[Site]"
    n_texts: int
    stream: "Callable[[Sequence[str], Path], Stream]"


@contextmanager
def watched(given: Watched, ctx: "Context", preparation: Preparation, facts: dict[str, Any]) -> Iterator[Prepared]:
    """Watch what flows into the products of a graph, and smooth what has outliers; see `prepare`.

    Raises:
        StageFailed: an activation is not finite.

    """
    with scratch_in(given.folder) as folder:
        yield _watched(given, folder, ctx, preparation, facts)


def _watched(given: Watched, folder: Path, ctx: "Context", preparation: Preparation, facts: dict[str, Any]) -> Prepared:
    model, sites = given.model, given.sites
    nodes = tuple(str(s.node.name) for s in sites)
    names = {str(s.node.name): str(s.given.name) for s in sites}
    if not sites or not given.n_texts:
        return Prepared(model, folder, nodes, names, {}, None, facts)
    observed = Observed(folder, tuple(dict.fromkeys(names.values())), given.n_texts, ctx.seed)
    try:
        with closing(given.stream(observed.names, folder)) as stream:
            observed.watch(stream)
    except ValueError as error:
        raise StageFailed(str(error), where="quantize") from None
    plans = _plan(sites, observed, preparation, ctx.progress) if preparation.smooth else []
    factors = {n: p.factors for p in plans for n in nodes if n in p.nodes}
    apply_smoothing(model, sites, plans)
    facts |= {"texts": given.n_texts, "smoothed": {p.nodes[0]: round(p.error_ratio, 4) for p in plans}}
    return Prepared(model, folder, nodes, names, factors, observed, facts)


def _plan(
    sites: "Sequence[Site]", observed: Observed, preparation: Preparation, progress: "Progress"
) -> list[Smoothing]:
    plans = []
    groups = site_groups(sites)
    with progress.task("Smoothing outlier channels", total=len(groups)) as ticker:
        for group in groups:
            inputs = _reading(group, observed)
            if len(inputs.rows) and np.abs(inputs.rows).max() > 0:
                factors, ratio = search_factors(inputs, bounded=preparation.bounded)
                free = all(folds_into_values(s) for s in group)
                if ratio <= (FREE_WORTH if free else WORTH):
                    plans.append(Smoothing(tuple(str(s.node.name) for s in group), factors, ratio))
            ticker.advance()
    return plans


def site_groups(sites: "Sequence[Site]") -> "list[list[Site]]":
    """Group products that share an input (one division serves all) or a weight (it has one row per channel)."""
    groups: list[tuple[set[str], list[Site]]] = []
    for site in sites:
        keys = {f"given {site.given.name}", f"weight {site.weight.name}"}
        joined = [g for g in groups if g[0] & keys]
        merged = (keys.union(*(g[0] for g in joined)), [*(s for g in joined for s in g[1]), site])
        groups = [g for g in groups if g not in joined] + [merged]
    return [members for _, members in groups]


def _reading(group: "Sequence[Site]", observed: Observed) -> ProductInputs:
    given = dict.fromkeys(str(s.given.name) for s in group)
    weights = {str(s.weight.name): s.weight for s in group}
    limit = max(1, SEARCH_ROWS // len(given))
    rows = np.concatenate([observed.rows(name, limit) for name in given])
    return ProductInputs.of(rows, np.concatenate([array_of(w) for w in weights.values()], axis=1))


def finish(model: "ir.Model", path: Path) -> int:
    """Put the embeddings into int8 and write the model, clean; returns how many tables there were."""
    from converter.onnx.rewrites.order import QUANTIZED, soundness_of
    from converter.onnx.write import write_onnx

    changes = apply_rewrites(QUANTIZED, model, soundness_of(model))
    write_onnx(model, path)
    release_memory()
    return changes["embedding_tables"]
