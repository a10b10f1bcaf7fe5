"""How the jobs of a batch came out, as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
JSON_FILE = "batch.json"
JUNIT_FILE = "report.junit.xml"
PAGE_FILE = "report.html"
LOGS = "logs"
OWN_NAMES = frozenset({JSON_FILE, JUNIT_FILE, PAGE_FILE, LOGS})
"""Of the batch itself in its output: no job can have one."""
WORDS = {0: "PASS", 3: "FAIL"}


@dataclass(frozen=True)
class Outcome:
    """How one job came out."""

    name: str
    model: str
    exit_code: int
    seconds: float
    error: str | None = None
    """Of a job that made nothing."""
    hint: str | None = None
    report: Mapping[str, Any] | None = None
    """What `report.json` of its output says; None where there is none."""
    where: str = "this machine"
    tries: int = 1
    kept: bool = field(default=False, compare=False)
    """An earlier run had made it already, by the same recipe."""

    @property
    def status(self) -> str:
        """PASS, FAIL, NOT_RUN (made, but could not be judged) or ERROR (nothing was made)."""
        if self.report is None:
            return "ERROR" if self.exit_code else "PASS"
        return str(self.report["status"])


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of a batch: the highest, as within one run. An internal error is above all."""
    codes = {o.exit_code for o in outcomes}
    return 1 if 1 in codes else max(codes, default=0)


def batch_table(outcomes: Sequence[Outcome], out: Path) -> dict[str, Any]:
    """Return the whole batch as JSON values; the keys are a promise that changes only with `format`."""
    return {
        "format": FORMAT,
        "out": str(out),
        "exit_code": worst(outcomes),
        "jobs": [_row(o) for o in outcomes],
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    made = {k: v for k, v in asdict(outcome).items() if k != "report"}
    report = outcome.report or {}
    packages = [_package(outcome.name, t) for t in report.get("targets", ())]
    missed = list(report.get("budgets_missed", ()))
    return made | {"status": outcome.status, "budgets_missed": missed, "packages": packages}


def _package(job: str, target: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = target["evaluation"] or {}
    times = evaluation.get("milliseconds", {})
    return {
        "target": target["target"],
        "precision": target["precision"],
        "status": target["status"],
        "folder": f"{job}/{target['folder']}" if target["folder"] else None,
        "size_bytes": target["size_bytes"],
        "milliseconds": times.get("package"),
        "source_milliseconds": times.get("source"),
        "agreement": next((c["value"] for c in evaluation.get("checks", ()) if c["name"] == "agreement"), None),
        "checks": [
            {"name": c["name"], "status": c["status"], "detail": c["detail"]} for c in evaluation.get("checks", ())
        ],
        "error": target["error"],
        "hint": target["hint"],
    }
