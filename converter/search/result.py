"""What a search has found, as a table of plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.errors import GateFailed
from converter.search.figures import Trial

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.data.split import TextSplit
    from converter.reference import Reference
    from converter.search.finalists import Decision, Finalist
    from converter.search.goal import Goal
    from converter.search.workbench import Workbench

FORMAT = 1


@dataclass(frozen=True)
class Subject:
    """What was searched, and how."""

    source: "TorchModel"
    goal: "Goal"
    text: "TextSplit"
    targets: Sequence[str]
    sampler: str
    seed: int
    seconds: float
    out: Path
    effort: float
    """Share of it, of trials."""


def table_of(
    made: Subject, bench: "Workbench", trials: Sequence[Trial], decision: "Decision", reference: "Reference | None"
) -> dict[str, Any]:
    """Return the table of `search.json`; `reference` are the source's answers to `--eval`, None where there is none."""
    goal, winner = made.goal, decision.winner
    missed = goal.said(winner.figures) if winner is not None and winner.figures is not None else ()
    return {
        "format": FORMAT,
        "version": converter.__version__,
        "model": made.source.provenance.id,
        "task": made.source.task.name,
        "metric": made.source.task.metric_name if bench.reference.metric else None,
        "source_metric": bench.reference.metric.get(made.source.task.metric_name),
        "source_eval": None if reference is None else reference.metric.get(made.source.task.metric_name),
        "n_eval": None if reference is None else len(reference.probes),
        "goal": goal.table(),
        "minimized": list(goal.minimized),
        "targets": list(made.targets),
        "sampler": made.sampler,
        "seed": made.seed,
        "seconds": round(made.seconds, 1),
        "effort": made.effort,
        "text": made.text.table(),
        "plain_ms": {k: round(v, 4) for k, v in bench.plain_ms.items()},
        "trials": [t.table() for t in trials],
        "finalists": [f.table() for f in decision.ranked],
        "optimism": decision.optimism,
        "gain": None if decision.gain is None else decision.gain.table(),
        "missed": list(missed),
        "exit_code": _exit_code(winner, missed),
        "out": str(made.out),
    }


def _exit_code(winner: "Finalist | None", missed: tuple[str, ...]) -> int:
    if winner is None or missed:
        return GateFailed.exit_code
    return winner.exit_code
