"""What a package was tested for, and how it came out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """A check that did not run is NOT_RUN, never PASS."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    NOT_RUN = "NOT_RUN"


SAMPLED = ("agreement", "metric", "slices")
"""Checks that a sample of texts decides, and may leave undecided."""


@dataclass(frozen=True)
class Check:
    """One law, what was found and what was allowed. `detail` is a sentence for people."""

    name: str
    status: Status
    value: float | None = None
    limit: float | None = None
    detail: str = ""

    @property
    def undecided(self) -> bool:
        """Measured against its limit on too few texts to tell: nothing is proven."""
        known = self.value is not None and self.limit is not None
        return self.status is Status.NOT_RUN and known and self.name in SAMPLED


def within(value: float, limit: float, *, at_least: bool = False) -> Status:
    """Compare so that NaN never passes."""
    return Status.PASS if (value >= limit if at_least else value <= limit) else Status.FAIL


@dataclass(frozen=True)
class Deviation:
    """How far one output is from the source's, over all probes."""

    output: str
    max_error: float
    """Worst absolute error over the output range."""
    mean_error: float
    cosine: float
    """Mean over probes."""
    p99_error: float | None = None
    """99 of 100 values of this output, over all probes, are at most this far from the source's."""


@dataclass(frozen=True)
class WorstText:
    """A probe with a large error, or with another decision than the source's."""

    text: str
    wanted: str
    found: str
    error: float


@dataclass(frozen=True)
class Evaluation:
    """All that is known of one package (or stage) against the source."""

    checks: tuple[Check, ...]
    deviations: tuple[Deviation, ...]
    agreement: float
    metric: dict[str, float]
    source_metric: dict[str, float]
    n_probes: int
    errors: tuple[float, ...] = ()
    """Worst relative error of each probe, in probe order: the report draws their distribution."""
    worst: tuple[WorstText, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Median latency of one text, one thread: `package` and `source` over the probes' own lengths, and by length."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """FAIL if anything failed; NOT_RUN if nothing decisive could be said; else PASS."""
        return status_of(self.checks)

    def reason(self) -> str | None:
        """Return, in a line, why the verdict is not PASS; None where it is."""
        status = self.status
        if status is Status.PASS:
            return None
        wanted = [
            c
            for c in self.checks
            if c.status is status and (status is Status.FAIL or c.undecided or c.name in DECISIVE)
        ]
        if not wanted:
            return "not proven: neither agreement nor error could be checked"
        return f"{'gate' if status is Status.FAIL else 'not proven'}: {wanted[0].name}: {wanted[0].detail}"

    def next_step(self) -> str:
        """Return what a user can do about the verdict; empty where it is PASS."""
        if self.status is Status.NOT_RUN and any(c.undecided for c in self.checks):
            more = "give --eval more texts like these, of which --probes are compared"
            return f"{more}; or set your own limits with --limit and --max-drop"
        return WHAT_NEXT.get(self.status, "")


WHAT_NEXT = {
    Status.FAIL: "report.html shows the texts; try another --quantize, or set your own limits with --limit",
    Status.NOT_RUN: "evaluate on text of your application: --eval with labels, or --calibration",
}
"""What a user can do about a verdict."""
DECISIVE = ("agreement", "max_error")
"""Checks without which nothing is proven: a package whose source answers all probes alike is NOT_RUN."""


def status_of(checks: Iterable[Check]) -> Status:
    """Return the verdict that follows from checks: see `Evaluation.status`."""
    known = list(checks)
    if any(c.status is Status.FAIL for c in known):
        return Status.FAIL
    if any(c.undecided for c in known):
        return Status.NOT_RUN
    decisive = [c.status for c in known if c.name in DECISIVE]
    return Status.PASS if decisive and Status.NOT_RUN not in decisive else Status.NOT_RUN
