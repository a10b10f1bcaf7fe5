"""What a run measured of a package: it stands in the report beside the package, never in the package itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import ExportError
from converter.jsonfile import read_json
from converter.report.summary import JSON_FILE

MOST_BYTES = 64 * 2**20


def measured_beside(package: Path) -> Mapping[str, Any]:
    """Return times of a package by the report of the run that made it; empty where that does not lie beside it.

    `milliseconds` of one text, `tokens_per_second` of a model that writes, `seconds` by stage.
    """
    folder = package.resolve()
    try:
        table = read_json(folder.parent / JSON_FILE, limit=MOST_BYTES)
        targets = [*table["targets"]]
        (target,) = [t for t in targets if t["folder"] == folder.name]
        evaluation = target["evaluation"]
        speed = evaluation["facts"].get("speed") or {}
        rate = ((speed.get("writing") or {}).get("tokens_per_second") or {}).get("package")
        records = [*table["compress_records"], *target["records"]]
        return {
            "milliseconds": {str(k): float(v) for k, v in evaluation["milliseconds"].items()},
            "seconds": {str(r["stage"]): float(r["seconds"]) for r in records},
            **({} if rate is None else {"tokens_per_second": float(rate)}),
        }
    except (ExportError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # another tool's file, or an older report: there is nothing to show


def with_times(package: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a manifest with the times of the report beside its package; older formats have their own."""
    times = measured_beside(package).get("milliseconds", {})
    return {**manifest, "gate": {"milliseconds": times, **manifest["gate"]}}
