"""Ranges, rounded weights and corrected biases of all products, fitted to the tokens that were watched."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.quantize.errors import ProductInputs, round_rows, token_importance
from converter.onnx.quantize.prepare import SEARCH_ROWS
from converter.onnx.quantize.ranges import choose_range
from converter.onnx.quantize.rounding import round_by_moments
from converter.onnx.rewrites.integer_products import IntegerFile, IntegerWeights, round_weights
from converter.onnx.rewrites.projections import array_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.onnx.quantize.prepare import Prepared
    from converter.onnx.quantize.ranges import RangeMethod
    from converter.onnx.rewrites.sites import Site
    from converter.stage import Progress

Ranges = dict[str, tuple[float, float]]
EXTREME_ROWS = 64
LEAST_ROWS = 16
"""With fewer tokens than this nothing is learned from them."""


@dataclass
class ProductFit:
    """What `quantize_products` needs beside the graph."""

    ranges: Ranges | None
    """By name of a product's input; None: taken at run time."""
    weights: dict[str, IntegerFile] = field(default_factory=dict)
    """By name of the weight; there as long as what was prepared."""
    shifts: "dict[str, NDArray[np.float32]]" = field(default_factory=dict)
    """What each product's bias is to be raised by, by node name."""
    noise: dict[str, float] = field(default_factory=dict)
    """Share of each product's output (squared, each token relative to its own) that int8 costs, by node name."""


def fit_products(
    prepared: "Prepared", ranges: "RangeMethod | None", progress: "Progress", *, bounded: bool, correct: bool = True
) -> ProductFit:
    """Fit every product; `ranges` None: activations are scaled at run time.

    What was observed is removed then: nothing else asks for it, and at the size of BERT-large it is more than the file
    that is made.
    """
    made = ProductFit({} if ranges is not None else None)
    sites = prepared.sites
    if prepared.observed is None:
        return made
    by_weight: dict[str, list[Site]] = {}
    for site in sites:
        by_weight.setdefault(str(site.weight.name), []).append(site)
    if ranges is not None:
        made.ranges = choose_ranges(prepared, ranges, progress)
    with progress.task("Rounding weights", total=len(by_weight)) as ticker:
        for name, users in by_weight.items():
            rounded = _round(prepared, users, made, bounded=bounded, correct=correct)
            made.weights[name] = IntegerFile.of(rounded, prepared.rounded_file(len(made.weights)))
            ticker.advance()
    prepared.observed.remove()
    return made


def choose_ranges(prepared: "Prepared", method: "RangeMethod", progress: "Progress") -> Ranges:
    """Return the range of every product's input, by its name."""
    by_input: dict[str, list[Site]] = {}
    for site in prepared.sites:
        by_input.setdefault(str(site.given.name), []).append(site)
    found: Ranges = {}
    with progress.task("Choosing ranges", total=len(by_input)) as ticker:
        for name, readers in by_input.items():
            weights = {str(s.weight.name): s.weight for s in readers}
            weight = np.concatenate([array_of(w) for w in weights.values()], axis=1)
            found[name] = choose_range(
                method, prepared.extremes(readers[0]), _sample(prepared.rows(readers[0]), weight)
            )
            ticker.advance()
    return found


def _sample(rows: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> ProductInputs:
    """Take the tokens that hold the largest values, and some of the rest in the place of all the rest.

    A range that was chosen without the few extreme tokens clips them, and trained encoders depend on those.
    """
    order = np.argsort(-np.abs(rows).max(axis=1, initial=0), kind="stable")
    rest = np.sort(order[EXTREME_ROWS:])
    kept = rest[np.linspace(0, len(rest) - 1, min(SEARCH_ROWS, len(rest))).astype(np.int64)]
    inputs = ProductInputs.of(rows[np.concatenate([order[:EXTREME_ROWS], kept])], weight)
    importance = inputs.importance.copy()
    importance[EXTREME_ROWS:] *= len(rest) / max(1, len(kept))
    return replace(inputs, importance=importance)


def _round(
    prepared: "Prepared", users: "list[Site]", made: ProductFit, *, bounded: bool, correct: bool
) -> IntegerWeights:
    """Round one weight for all products that use it."""
    weight = array_of(users[0].weight)
    moments = np.zeros((len(weight), len(weight)), dtype=np.float32)
    n_rows = 0
    for site in users:
        rows = prepared.rows(site)
        n_rows += len(rows)
        seen = _seen(rows, site, made.ranges)
        moments += seen.T @ seen
        del rows, seen
    rounded = (
        round_by_moments(weight, moments, bounded=bounded)
        if n_rows >= LEAST_ROWS
        else round_weights(weight, bounded=bounded)
    )
    del moments
    values = rounded.values * rounded.scales
    for site in users:
        _judge(prepared, site, weight, values, made, correct=correct)
    return rounded


def _seen(rows: "NDArray[np.float32]", site: "Site", ranges: Ranges | None) -> "NDArray[np.float32]":
    """Return the tokens as the integer product sees them."""
    return rows if ranges is None else round_rows(rows, *ranges[str(site.given.name)])


def _judge(
    prepared: "Prepared",
    site: "Site",
    weight: "NDArray[np.float32]",
    values: "NDArray[np.float32]",
    made: ProductFit,
    *,
    correct: bool,
) -> None:
    """Take note of what int8 changes in one product: on average (given back through the bias), and beyond that."""
    rows = prepared.rows(site)
    if not len(rows):
        return
    wanted = rows @ weight
    change = wanted - _seen(rows, site, made.ranges) @ values
    if correct:
        made.shifts[str(site.node.name)] = change.mean(axis=0)
        change -= change.mean(axis=0)
    made.noise[str(site.node.name)] = float(np.square(change).sum(axis=1) @ token_importance(wanted))
