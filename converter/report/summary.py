"""A run as one plain table: what `report.json` and `--json` hold, and what the page is drawn from.

The keys are a promise: they change only with `FORMAT`.
"""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import converter
from converter.jsonfile import json_values
from converter.package.installed import installed
from converter.recipe import recipe_table
from converter.validate.checks import Status
from converter.validate.texts import LENGTHS, NOTES, said_of_lengths

if TYPE_CHECKING:
    from converter.pipeline import Result, TargetResult
    from converter.validate.checks import Evaluation

FORMAT = 1
JSON_FILE = "report.json"
JUNIT_FILE = "report.junit.xml"
SARIF_FILE = "report.sarif"
PAGE_FILE = "report.html"


def report_table(result: "Result") -> dict[str, Any]:
    """Return everything that is known of a run, as JSON values. Numbers that are not finite are null."""
    table = {
        "format": FORMAT,
        "tool": {"name": "plm-export", "version": converter.__version__},
        "made": _now().isoformat(timespec="seconds"),
        "model": result.model,
        "task": result.task,
        "out": str(result.out),
        "exit_code": result.exit_code,
        "status": overall(result),
        "source": source_row(result),
        "compressed": _evaluation(result.compressed),
        "budgets_missed": list(result.budgets_missed),
        "notes": notes_on_text(result),
        "compress_records": [asdict(r) for r in result.compress_records],
        "targets": [_target(t) for t in result.targets],
        "recipe": recipe_table(result.recipe),
        "versions": installed(),
        "facts": result.facts,
    }
    made = json_values(table)
    assert isinstance(made, dict)
    return made


def _now() -> datetime:
    """Return the time, or the one that `SOURCE_DATE_EPOCH` gives (https://reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(given), UTC) if given.isdecimal() else datetime.now(UTC)


def overall(result: "Result") -> Status:
    """FAIL if a target failed or a budget was missed, NOT_RUN if one could not be judged, PASS only if all passed."""
    states = {t.status for t in result.targets} | ({Status.FAIL} if result.budgets_missed else set())
    for status in (Status.FAIL, Status.NOT_RUN):
        if status in states:
            return status
    return Status.PASS if states else Status.NOT_RUN


def source_row(result: "Result") -> dict[str, Any]:
    """Return size, metric and latency of the source. Each package is timed beside it: the median of those is shown."""
    found = [e for e in (*(t.evaluation for t in result.targets), result.compressed) if e is not None]
    times = sorted(e.milliseconds["source"] for e in found if "source" in e.milliseconds)
    return {
        "size_bytes": result.source_size_bytes,
        "metric": found[0].source_metric if found else {},
        "milliseconds": times[len(times) // 2] if times else None,
        "n_probes": found[0].n_probes if found else 0,
    }


def notes_on_text(result: "Result") -> list[str]:
    """Return what was said of the data, the metric and texts too long, once; by package where it is not of all."""
    said: dict[str, list[str]] = {}
    judged = [t for t in result.targets if t.evaluation is not None]
    for target in judged:
        facts = target.evaluation.facts if target.evaluation else {}
        for sentence in filter(None, (*facts.get(NOTES, ()), said_of_lengths(facts.get(LENGTHS)))):
            said.setdefault(sentence, []).append(target.target)
    return [s if len(names) == len(judged) else f"{', '.join(names)}: {s}" for s, names in said.items()]


def _target(target: "TargetResult") -> dict[str, Any]:
    made = asdict(target)
    made["evaluation"] = _evaluation(target.evaluation)
    return made


def _evaluation(evaluation: "Evaluation | None") -> dict[str, Any] | None:
    return None if evaluation is None else asdict(evaluation) | {"status": evaluation.status}
