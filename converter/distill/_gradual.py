"""The cuts of gradual pruning, and the parts of the training between them."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import UsageError
from converter.stage import Context, Outcome
from converter.structured.budget import BudgetedCosts, costs_of_size, costs_of_time
from converter.structured.importance import gather_evidence
from converter.structured.plan import UnitScores, describe_plan
from converter.structured.shrink import PASSES, collect_inputs, fitted, shrink
from converter.surgery.count import n_parameters
from converter.surgery.resize import family_of, places_of, shape_map_of
from converter.training.distillation import prepare
from converter.training.teacher import KEPT

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.distill.gradual import GradualPruning
    from converter.structured.importance import Evidence
    from converter.training.loop import Trained

MAX_LENGTH = 128
"""Tokens of a text that units are measured on."""


@dataclass(frozen=True)
class Cut:
    """What is left after one cut, and when it came."""

    at: float
    """Share of the training."""
    allowed: float
    """Of the budget's unit."""


def cubic_cuts(full: float, wanted: float, n_cuts: int, until: float) -> list[Cut]:
    """Return the cuts from `full` to `wanted`: large ones first, the last of them at the share `until`.

    What is left falls as 1 - (1 - t)^3 does; the first cut comes before any training, when there is nothing to learn.

    >>> [(round(c.at, 2), round(c.allowed, 2)) for c in cubic_cuts(10.0, 2.0, 3, 0.4)]
    [(0.0, 4.37), (0.2, 2.3), (0.4, 2.0)]
    """
    return [
        Cut(until * i / (n_cuts - 1), wanted + (full - wanted) * (1 - (i + 1) / n_cuts) ** 3) for i in range(n_cuts)
    ]


def prune_gradually(stage: "GradualPruning", given: "TorchModel", ctx: Context) -> Outcome["TorchModel"]:
    """Cut and train in turns.

    Raises:
        UsageError, DataError, RecipeError: what `distill.soft` and `prune.structured` refuse.

    """
    setup = prepare("distill.gradual", stage, stage.weights, given, ctx)
    evidence = gather_evidence(given, ctx, n_texts=stage.texts, max_length=MAX_LENGTH, loss="answers", score="taylor")
    costs = _budgeted_costs(stage, given, ctx)
    cuts = cubic_cuts(costs.full, costs.wanted, stage.cuts, stage.until)
    made, missed = given, False
    first: tuple[UnitScores, ...] = ()
    trained: list[Trained] = []
    for i, cut in enumerate(cuts):
        made, scores, missed = _cut(stage, made, ctx, evidence, costs, cut)
        first = first or scores
        part = (cut.at, cuts[i + 1].at if i + 1 < len(cuts) else 1.0)
        trained.append(setup.train(made, part))
        made = replace(made, module=trained[-1].module)
    shutil.rmtree(ctx.work / KEPT, ignore_errors=True)
    widths = [(p.n_heads, p.n_neurons) for p in family_of(made).layers(made.module)]
    facts = {
        "plan": describe_plan(shape_map_of(given), shape_map_of(made), first).as_facts(),
        "cuts": [[round(cut.at, 4), round(cut.allowed, 4)] for cut in cuts],
        "parameters_before": n_parameters(given),
        "parameters_after": n_parameters(made),
        **setup.facts(trained),
        **costs.facts(widths, missed=missed),
    }
    return Outcome(made, facts)


def _refuse_processes() -> None:
    """Refuse goals of time in a launch of several processes: each would time its own table and cut otherwise."""
    from accelerate import PartialState

    if PartialState().num_processes > 1:
        raise UsageError(
            "a goal of time is for one process: each of several would time the model for itself",
            where="distill.gradual",
            hint="give size_mb, or prune.structured and then distill.soft",
        )


def _budgeted_costs(stage: "GradualPruning", given: "TorchModel", ctx: Context) -> BudgetedCosts:
    if stage.size_mb is not None:
        return costs_of_size(given, ctx, stage.size_mb)
    _refuse_processes()
    return costs_of_time(given, ctx, stage.speedup, stage.latency_ms)


def _cut(
    stage: "GradualPruning", given: "TorchModel", ctx: Context, evidence: "Evidence", costs: BudgetedCosts, cut: Cut
) -> tuple["TorchModel", tuple[UnitScores, ...], bool]:
    """Return `given` cut and fitted to what it handed on itself, what its units were worth, and a missed budget."""
    n_sublayers, n_batches = 2 * len(family_of(given).layers(given.module)), len(evidence.batches)
    total = 2 * n_batches + n_sublayers + PASSES * (n_sublayers + n_batches)
    # Its own: several processes cut alike, side by side.
    folder = Path(tempfile.mkdtemp(prefix="sums-", dir=ctx.work))
    with ctx.progress.task("Choosing heads and neurons", total=total) as ticker:
        inputs = collect_inputs(given, evidence, folder, ticker)
        found = shrink(inputs, costs.table, cut.allowed, 1, stage.round_to, ticker)
        made = fitted(inputs, places_of(given, found.made), ticker)
    shutil.rmtree(folder)
    return made, found.first, found.missed
