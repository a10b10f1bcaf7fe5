"""How long things will take, before they do: what a trial is made with, and when to stop for the finalists."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converter.errors import ExportError
from converter.reference import judge_batched, torch_run
from converter.search.figures import State, Trial
from converter.stage import SILENT

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.recipe import Recipe
    from converter.search.workbench import Workbench

MAKING_SECONDS, SECONDS_A_PARAMETER = 6.0, 4e-7
"""To export, quantize and open a package, at least."""
WANTED_TRIALS = 12
"""So many should fit into the time: their share of the effort is chosen for that, within these bounds."""
SHARES = (0.05, 0.34)
FOR_TRIALS = 0.6
"""Share of the time; the rest is for the finalists."""


def making_seconds(source: "TorchModel") -> float:
    """Return about how long exporting and quantizing takes, beside what compresses the model."""
    return MAKING_SECONDS + SECONDS_A_PARAMETER * sum(p.numel() for p in source.module.parameters())


def effort_share(bench: "Workbench", starts: "Sequence[Recipe]", seconds: float, making: float, pace: float) -> float:
    """Return the share of the effort that trials are made with, so that some of them fit into so many seconds."""
    heaviest = 0.0
    for recipe in starts:
        try:
            heaviest = max(heaviest, bench.foretell(recipe, times=False).passes)
        except ExportError:
            continue
    budget = FOR_TRIALS * seconds / WANTED_TRIALS - making
    return round(min(SHARES[1], max(SHARES[0], budget / (heaviest * pace) if heaviest else SHARES[1])), 3)


def training_pace(bench: "Workbench") -> float:
    """Return seconds of a forward pass of a text in a batch."""
    probes = bench.reference.probes[:64]
    started = time.perf_counter()
    judge_batched(bench.source, probes, torch_run(bench.source), SILENT, "")
    return (time.perf_counter() - started) / max(1, len(probes))


def seconds_in_full(passes: Sequence[float], pace: float, trials: Sequence[Trial], making: float) -> float:
    """Return what making some candidates in full is expected to take.

    `passes`: texts that compressing each of them runs through the model; `pace`: seconds of one.
    """
    plain = [t.seconds for t in trials if t.state is State.MEASURED and not t.recipe.get("compress")]
    # The gate takes about as long again as making a package.
    return sum(2 * min(plain, default=making) + pace * each for each in passes)
