"""One package against the source's answers."""

from typing import TYPE_CHECKING

import numpy as np

from converter.validate.checks import Check, Deviation, Evaluation, Status
from converter.validate.reference import Reference, Run, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.validate.limits import Limits


def compare(
    source: "TorchModel", reference: Reference, run: Run, limits: "Limits", progress: "Progress", title: str
) -> Evaluation:
    """Run every probe through `run` and judge it against the reference within `limits`."""
    found = judge(source, reference.probes, run, progress, title)
    deviations = tuple(_deviation(name, reference, [f.outputs[name] for f in found]) for name in reference.output_range)
    agreement = source.task.agreement(reference.decisions, source.task.decisions(found))
    worst = max(d.max_error for d in deviations)
    checks = (
        _at_most("max_error", worst, limits.max_error),
        Check(
            "agreement",
            Status.PASS if agreement >= (limits.agreement or 0) else Status.FAIL,
            agreement,
            limits.agreement,
        ),
    )
    return Evaluation(checks, deviations, agreement, source.task.metric(found), reference.metric, len(found))


def _at_most(name: str, value: float, limit: float | None) -> Check:
    return Check(name, Status.PASS if limit is None or value <= limit else Status.FAIL, value, limit)


def _deviation(name: str, reference: Reference, found: "list[NDArray[np.float32]]") -> Deviation:
    wanted = [j.outputs[name] for j in reference.judged]
    errors = [np.abs(a - b) for a, b in zip(wanted, found, strict=True)]
    scale = max(reference.output_range[name], 1e-12)
    cosines = [
        float((a * b).sum() / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))
        for a, b in zip(wanted, found, strict=True)
    ]
    return Deviation(
        name,
        max(float(e.max()) for e in errors) / scale,
        float(np.mean([e.mean() for e in errors])) / scale,
        float(np.mean(cosines)),
    )
