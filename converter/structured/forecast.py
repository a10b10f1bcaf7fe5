"""What pruning would leave, told beforehand: shares evenly, budgets by their tables."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.forecast import Forecast, spent, with_widths

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.prune.structured import StructuredPruning
    from converter.stage import Context
    from converter.structured.costs import CostTable

STEPS = 24
"""Halvings of the share that a budget is met with: beyond what any width can tell."""
BACKWARD = 3
"""Passes that measuring importance takes: one forward, and a backward of twice that."""


def by_share(stage: "StructuredPruning", now: Forecast, model: "TorchModel") -> Forecast:
    """Return what is left when shares of heads and neurons go, taken evenly over the layers."""
    heads, neurons = stage.ratios
    widths = tuple((max(1, round(h * (1 - heads))), max(1, round(n * (1 - neurons)))) for h, n in now.widths)
    return _worked(stage, with_widths(now, model, widths))


def by_budget(stage: "StructuredPruning", now: Forecast, model: "TorchModel", ctx: "Context") -> Forecast:
    """Return what is left when all layers shrink alike until the budget is met: the search chooses better, not less."""
    if not now.widths:
        return now
    if model.cache is not None:
        share = stage.share_of_goal(model, ctx).share
        widths = tuple((max(1, round(h * (1 - share))), max(1, round(n * (1 - share)))) for h, n in now.widths)
        return _worked(stage, with_widths(now, model, widths))
    spends = _gauge(stage, model, ctx)
    low, high = 0.0, 1.0
    wanted = spends(now) / stage.speedup if stage.speedup is not None else stage.latency_ms or stage.size_mb or 0.0
    for _ in range(STEPS):
        share = (low + high) / 2
        low, high = (share, high) if spends(_shrunk(now, model, share)) <= wanted else (low, share)
    return _worked(stage, _shrunk(now, model, low))


def by_layers(now: Forecast, model: "TorchModel", kept: Sequence[int], texts: int) -> Forecast:
    """Return what is left when these layers stay."""
    from converter.surgery.resize import family_of

    sizes = [sum(p.numel() for p in part.layer.parameters()) for part in family_of(model).layers(model.module)]
    gone = sum(size for i, size in enumerate(sizes) if i not in kept)
    widths = tuple(now.widths[i] for i in kept) if len(now.widths) == len(sizes) else ()
    return spent(replace(now, matrices=max(0, now.matrices - gone), widths=widths), passes=texts)


def _gauge(stage: "StructuredPruning", model: "TorchModel", ctx: "Context") -> "Callable[[Forecast], float]":
    """Return what a budget counts of a model: megabytes, or milliseconds by the table of this machine."""
    if stage.size_mb is not None:
        stored = ctx.aim.precision.bytes_a_weight if ctx.aim else 1
        return lambda then: then.bytes(stored) / 1e6
    table = table_of(model, ctx)
    return lambda then: table.total(then.widths)


def table_of(model: "TorchModel", ctx: "Context") -> "CostTable":
    """Return the milliseconds of this machine at the lengths of the calibration text."""
    from converter.structured.budget import time_table

    return time_table(model, ctx)


def _shrunk(now: Forecast, model: "TorchModel", share: float) -> Forecast:
    widths = tuple((round(h * share), round(n * share)) for h, n in now.widths)
    return with_widths(now, model, widths)


def _worked(stage: "StructuredPruning", made: Forecast) -> Forecast:
    """Add the passes: importance in each step, and what the fit reads of the whole model and of each sublayer."""
    rounds = stage.steps * BACKWARD + (2 * len(made.widths) + 1 if stage.reconstruct else 0)
    return spent(made, passes=stage.texts * rounds)
