"""All weights of a model that writes text in blocks of few bits: how each is rounded, and which get 8 bits, not 4."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converter.onnx.external import stored_bytes
from converter.onnx.quantize.block_rounding import round_by_moments, round_to_nearest
from converter.onnx.quantize.input_scales import search_input_scales
from converter.onnx.quantize.observed import Observed
from converter.onnx.quantize.written import read_for_rounding, stream_written
from converter.onnx.rewrites.block_products import BlockFile, BlockWeights, fitting_block, write_block_products
from converter.onnx.rewrites.embeddings import MIN_ROWS, MIN_WIDTH
from converter.onnx.rewrites.input_scales import fold_input_scales, foldable_groups
from converter.onnx.rewrites.products import Product, product_at, products_of, tables_of
from converter.onnx.rewrites.projections import array_of
from converter.resources import made_in_threads, release_memory

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.examples import Encoding
    from converter.onnx.model import OnnxModel
    from converter.stage import Context

Method = Literal["rtn", "awq", "gptq", "awq-gptq"]
SEARCH_ROWS = 512
LEAST_ROWS = 16
"""With fewer tokens than this nothing is learned from them."""
SEEN_OUTPUTS = 1024
"""Of a product, by which it is told what rounding costs."""
TABLE_BITS = 8
"""Of tables that no product reads: only rows are looked up, so they cost no time."""


@dataclass(frozen=True)
class BlockRules:
    """How weights are rounded: bits, inputs a scale, and by what."""

    bits: Literal[4, 8]
    block: int
    method: Method
    table_bits: Literal[4, 8]
    """Of the table of tokens."""

    def block_of(self, inputs: int, *, looked_up: bool = False) -> int:
        """Return how many inputs of a weight with `inputs` share a scale; `looked_up`: it is a table."""
        return fitting_block(inputs, self.block, self.bits, looked_up=looked_up)


@dataclass
class FittedGraph:
    """One graph, its weights not yet replaced."""

    model: "ir.Model"
    folder: Path
    """Where rounded weights lie until the graph is written, and what is observed until they are rounded."""
    rounded: dict[str, BlockFile] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    """Share of the output of each weight's products (squared) that rounding costs, by name of the weight."""
    scaled: dict[str, float] = field(default_factory=dict)
    """Share of the squared error that input scales leave, by the name of a group's first product."""
    left: list[str] = field(default_factory=list)
    """Weights that stay as they are."""

    def raise_bits(self, name: str) -> None:
        """Give a weight 8 bits."""
        given = {p.weight_name: p.rows for p in products_of(self.model)} | {
            str(t.name): (lambda table=t: array_of(table)) for t in tables_of(self.model)
        }
        self.keep(name, round_to_nearest(given[name](), 8, self.rounded[name].shape[2]))

    def keep(self, name: str, made: BlockWeights) -> None:
        """Take a weight as rounded to `made`, on disk: of all weights together a large model has no room in memory."""
        known = self.rounded.get(name)
        path = self.folder / f"rounded-{len(self.rounded)}.bin" if known is None else known.path
        self.rounded[name] = BlockFile.of(made, path)

    def write(self, path: Path) -> int:
        """Write the graph with its weights replaced; returns how many tables were put into int8 rows."""
        from converter.onnx.rewrites.order import BLOCKWISE, soundness_of
        from converter.onnx.write import write_onnx
        from converter.rewrite import apply_rewrites

        title = self.model.graph.name
        write_block_products(self.model, self.rounded)
        changes = apply_rewrites(BLOCKWISE, self.model, soundness_of(self.model))
        self.model.graph.name = title
        write_onnx(self.model, path)
        shutil.rmtree(self.folder)
        release_memory()
        return changes["embedding_tables"]


def fit_graph(
    given: "OnnxModel", graph: str, rules: BlockRules, texts: "Sequence[Encoding]", folder: Path, ctx: "Context"
) -> FittedGraph:
    """Round every weight of one graph of `given`; `texts` are what input scales and moments are measured on."""
    made = FittedGraph(read_for_rounding(given.files[graph]), folder / f"{graph}-rounded")
    made.folder.mkdir(exist_ok=True)
    products = products_of(made.model)
    rows = _Rows(None, {})
    if texts and rules.method != "rtn":
        names = tuple(dict.fromkeys(str(p.given.name) for p in products))
        observed = Observed(made.folder, names, len(texts), ctx.seed)
        with closing(stream_written(made.model, graph, names, given, texts, made.folder, ctx.progress)) as stream:
            observed.watch(stream)
        rows = _Rows(observed, {})
        if rules.method.startswith("awq"):
            _scale_inputs(made, products, rows, rules, ctx)
    _round(made, rows, rules, ctx)
    if rows.observed is not None:
        rows.observed.remove()
    return made


@dataclass
class _Rows:
    """What products read, as they read it now."""

    observed: Observed | None
    divided: "dict[str, NDArray[np.float32]]"

    def of(self, product: Product, limit: int | None = None) -> "NDArray[np.float32]":
        assert self.observed is not None
        name = str(product.given.name)
        rows = self.observed.rows(name, limit)
        return rows / self.divided[name] if name in self.divided else rows

    def moments(self, products: Sequence[Product]) -> "NDArray[np.float32] | None":
        """Return the mean second moments `[in, in]`; None where too little was seen."""
        if self.observed is None:
            return None
        total, count = None, 0
        for product in products:
            rows = self.of(product)
            count += len(rows)
            total = rows.T @ rows if total is None else total + rows.T @ rows
        return None if total is None or count < LEAST_ROWS else np.asarray(total / count, dtype=np.float32)


def _scale_inputs(
    made: FittedGraph, products: Sequence[Product], rows: _Rows, rules: BlockRules, ctx: "Context"
) -> None:
    groups = foldable_groups(products)
    with ctx.progress.task("Weighing input channels", total=len(groups)) as ticker:
        for nodes in [[p.node for p in group] for group in groups]:
            # Read anew: what one group divides may be the weights of the next.
            group = [p for p in map(product_at, nodes) if p is not None]
            seen = rows.of(group[0], SEARCH_ROWS)
            if len(seen) >= LEAST_ROWS:
                weights = [p.rows() for p in group]
                block = rules.block_of(weights[0].shape[1])
                factors, ratio = search_input_scales(seen, weights, rules.bits, block)
                if ratio < 1:
                    fold_input_scales(made.model.graph, group, factors)
                    rows.divided[str(group[0].given.name)] = factors
                    made.scaled[group[0].name] = round(ratio, 4)
            ticker.advance()


def _round(made: FittedGraph, rows: _Rows, rules: BlockRules, ctx: "Context") -> None:
    by_weight: dict[str, list[Product]] = {}
    for product in products_of(made.model):
        by_weight.setdefault(product.weight_name, []).append(product)
    tables = {str(t.name): t for t in tables_of(made.model) if _is_large(t)}
    # Rows that do not end with a block cannot be looked up.
    inputs = {n: users[0].shape[0] for n, users in by_weight.items()}
    made.left += [n for n, width in inputs.items() if n in tables and width % rules.block_of(width, looked_up=True)]
    names = [name for name in by_weight if name not in made.left]

    def rounded(name: str) -> tuple[BlockWeights, float]:
        return _rounded(by_weight[name], rows, rules, tied=name in tables)

    with ctx.progress.task(f"Rounding to {rules.bits} bits", total=len(names) + len(tables)) as ticker:
        for name, (one, noise) in zip(names, made_in_threads(rounded, names), strict=True):
            made.keep(name, one)
            made.noise[name] = noise
            del one  # before the next is waited for
            ticker.advance()
        largest = max((t.const_value.nbytes for t in tables.values() if t.const_value is not None), default=0)
        for name, table in tables.items():
            array = array_of(table)
            block = rules.block_of(array.shape[1], looked_up=True)
            if name not in by_weight and array.shape[1] % block == 0:
                bits = rules.table_bits if array.nbytes == largest else TABLE_BITS
                made.keep(name, round_to_nearest(array, bits, block))
            ticker.advance()


def _rounded(users: Sequence[Product], rows: _Rows, rules: BlockRules, *, tied: bool) -> tuple[BlockWeights, float]:
    """Return the weight of some products rounded, and what that costs; see `FittedGraph.noise`."""
    weight = users[0].rows()
    bits, block = rules.table_bits if tied else rules.bits, rules.block_of(weight.shape[1], looked_up=tied)
    moments = rows.moments(users)
    if moments is not None and rules.method.endswith("gptq") and not tied:
        rounded = round_by_moments(weight, bits, block, moments)
    else:
        importance = None if moments is None or tied else np.diag(moments)
        rounded = round_to_nearest(weight, bits, block, importance)
    # Some of the outputs tell as much as all of them, and a table's errors would take the memory of the table again.
    some = slice(None, None, max(1, len(weight) // SEEN_OUTPUTS))
    return rounded, round(_noise(weight[some], rounded.of(some).wide() - weight[some], moments), 6)


def _noise(
    weight: "NDArray[np.float32]", change: "NDArray[np.float32]", moments: "NDArray[np.float32] | None"
) -> float:
    """Return the share of the squared output that `change` makes; inputs that nobody watched count alike."""
    if moments is None:
        return float(np.square(change).sum() / max(float(np.square(weight).sum()), 1e-30))
    errors, power = (float(np.einsum("oi,oi->", w @ moments, w)) for w in (change, weight))
    return errors / max(power, 1e-30)


def _is_large(table: "ir.Value") -> bool:
    assert table.const_value is not None
    rows, width = table.const_value.shape.numpy()
    return rows >= MIN_ROWS and width >= MIN_WIDTH


def raise_to_size(graphs: Mapping[str, FittedGraph], given: "OnnxModel", most_bytes: float) -> list[str]:
    """Give 8 bits to the weights that lose most by 4, a byte, as long as all files stay within `most_bytes`."""
    size = sum(_forecast(g, stored_bytes(given.files[name])) for name, g in graphs.items())
    found = [(g, n, b) for g in graphs.values() for n, b in g.rounded.items() if b.bits == 4 and n in g.noise]
    raised = []
    for graph, name, block in sorted(found, key=lambda f: -f[0].noise[f[1]] / f[2].size):
        if size + block.size / 2 <= most_bytes:
            size += block.size / 2
            graph.raise_bits(name)
            raised.append(name)
    return raised


def _forecast(graph: FittedGraph, before: int) -> float:
    """Return the bytes of a file once its weights are replaced."""
    saved = sum(b.shape[0] * b.inputs * 4 - b.size * b.bits / 8 - b.scales.size * 2 for b in graph.rounded.values())
    return before - saved


def facts_of(graphs: Mapping[str, FittedGraph]) -> dict[str, Any]:
    """Return what is kept in the record."""
    made: dict[str, Any] = {}
    for name, graph in graphs.items():
        made[name] = {
            "weights": len(graph.rounded),
            "in_8_bits": sum(b.bits == 8 for b in graph.rounded.values()),
            "left_in_float32": graph.left,
            "scaled_inputs": graph.scaled,
            "noise": dict(sorted(graph.noise.items(), key=lambda item: -item[1])[:10]),
        }
    return made
