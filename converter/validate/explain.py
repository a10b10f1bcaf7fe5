"""Which step drifted: the artifacts between source and package, run on the texts that came out worst."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.precision import Limits
from converter.reference import Reference
from converter.resources import release_memory
from converter.validate.answers import RunFailed
from converter.validate.checks import Evaluation
from converter.validate.compare import compare

if TYPE_CHECKING:
    from converter.stage import Progress

SAMPLE = 48
"""Texts that every step is asked: the worst of the package, and quick enough to run only after a failure."""


@dataclass(frozen=True)
class Boundary:
    """How far the model was from the source when `step` had run, over the package's worst texts."""

    step: str
    max_error: float
    agreement: float
    detail: str = ""


def explain(
    source: TorchModel,
    reference: Reference,
    package: Evaluation,
    steps: Sequence[tuple[str, Artifact]],
    progress: "Progress",
) -> tuple[list[dict[str, Any]], str]:
    """Run what every step made, as far as it runs on its own; returns the figures and a sentence."""
    rows = sorted(range(len(package.errors)), key=lambda i: -package.errors[i])[:SAMPLE]
    sample = _only(source, reference, rows)
    found = [b for name, made in steps for b in (_boundary(source, sample, name, made, progress),) if b is not None]
    if not found or not rows:
        return [], ""
    found.append(Boundary("package", package.errors[rows[0]], package.agreement))
    return [asdict(b) for b in found], _sentence(found)


def _sentence(found: Sequence[Boundary]) -> str:
    """Name the step that moved the worst error most."""
    before = [0.0, *(b.max_error for b in found[:-1])]
    gains = [-math.inf if math.isinf(was) else b.max_error - was for was, b in zip(before, found, strict=True)]
    i = max(range(len(found)), key=lambda k: gains[k])
    step = "the export to the package" if i == len(found) - 1 else found[i].step
    return f"most of the error comes from {step} (worst error {before[i]:.2g} before, {found[i].max_error:.2g} after)"


def _only(source: TorchModel, reference: Reference, rows: Sequence[int]) -> Reference:
    judged = tuple(reference.judged[i] for i in rows)
    decisions = tuple(source.task.decisions(judged)) if judged else ()
    return replace(reference, judged=judged, decisions=decisions, scored=(), metric={}, chance=None)


def _boundary(
    source: TorchModel, reference: Reference, name: str, made: Artifact, progress: "Progress"
) -> Boundary | None:
    release_memory()
    run = made.runs()
    if run is None:
        return None
    try:
        result = compare(source, reference, run, Limits(), progress, f"After {name}")
    except RunFailed as error:
        return Boundary(name, math.inf, 0.0, str(error))
    return Boundary(name, max((d.max_error for d in result.deviations), default=math.inf), result.agreement)
