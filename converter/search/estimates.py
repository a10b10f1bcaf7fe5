"""How long things will take, before they do: what a trial is made with, and when to stop for the finalists."""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from converter.binding import with_effort
from converter.errors import ExportError
from converter.reference import judge_batched, torch_run
from converter.resources import fixed_threads
from converter.search.figures import State, Trial
from converter.stage import SILENT

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.recipe import Recipe
    from converter.search.workbench import Workbench

MAKING_SECONDS, SECONDS_A_PARAMETER = 6.0, 4e-7
"""To export, quantize and open a package, at least."""
WANTED_TRIALS = 24
"""So many should fit into the time: their share of the effort is chosen for that, within these bounds."""
SHARES = (0.04, 0.34)
STEPS = 8
"""Halvings of the share, until it fits."""
FOR_TRIALS = 0.5
"""Share of the time; the rest is for the finalists."""
FACTORS = (0.7, 1.5)
"""Trials tell by how much estimates are off; no more than this is believed."""
TEXTS = 64


def making_seconds(source: "TorchModel") -> float:
    """Return about how long exporting and quantizing takes, beside what compresses the model."""
    return MAKING_SECONDS + SECONDS_A_PARAMETER * sum(p.numel() for p in source.module.parameters())


def effort_share(
    bench: "Workbench", starts: "Sequence[Recipe]", seconds: float, making: float, pace: float, slots: int = 1
) -> float:
    """Return the share of the effort that trials are made with, so that some of them fit into so many seconds.

    `pace`: seconds of a text; `slots`: trials that are made at the same time. The starts stand for what will be tried.
    """
    # Where there is little time there are fewer trials, not such as tell nothing.
    budget = max(making, FOR_TRIALS * seconds * slots / WANTED_TRIALS - making)
    low, high = SHARES
    if _spent(bench, starts, high) * pace <= budget:
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _spent(bench, starts, middle) * pace <= budget else (low, middle)
    return round(low, 3)


def _spent(bench: "Workbench", recipes: "Sequence[Recipe]", share: float) -> float:
    """Return the passes that compressing takes with a share of the effort, by the median of some recipes."""
    found = [passes_of(bench, recipe, share) for recipe in recipes if recipe.compress]
    return median(found) if found else 0.0


def passes_of(bench: "Workbench", recipe: "Recipe", share: float = 1.0) -> float:
    """Return how many texts compressing runs through the whole model; 0 where a stage refuses: its trial says why."""
    less = replace(recipe, compress=tuple(with_effort(stage, share) for stage in recipe.compress))
    try:
        return bench.foretell(less, times=False).passes
    except ExportError:
        return 0.0


def training_pace(bench: "Workbench", threads: int = 1) -> float:
    """Return seconds of a forward pass of a text in a batch."""
    probes = bench.reference.probes[:TEXTS]
    run = torch_run(bench.source)
    with fixed_threads(threads):
        judge_batched(bench.source, probes[:8], run, SILENT, "")  # the first run allocates
        started = time.perf_counter()
        judge_batched(bench.source, probes, run, SILENT, "")
        return (time.perf_counter() - started) / max(1, len(probes))


def seconds_in_full(
    passes: Sequence[float], pace: float, trials: Sequence[Trial], making: float, at_once: int = 1
) -> float:
    """Return what making some candidates in full is expected to take.

    `passes`: texts that compressing each of them runs through the model; `pace`: seconds of one.
    """
    plain = [t.seconds for t in trials if t.state is State.MEASURED and not t.recipe.get("compress")]
    # The gate takes about as long again as making a package.
    found = [2 * min(plain, default=making) + pace * each for each in passes]
    return max(max(found, default=0.0), sum(found) / at_once)


def off_by(found: Sequence[tuple[float, float]]) -> float:
    """Return what estimates are to be multiplied by; `found` has pairs of what trials took, and were expected to."""
    expected = sum(e for _, e in found)
    return min(FACTORS[1], max(FACTORS[0], sum(s for s, _ in found) / expected)) if expected else 1.0
