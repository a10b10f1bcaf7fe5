"""All reports of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from converter.jsonfile import write_json
from converter.package import plain

if TYPE_CHECKING:
    from converter.pipeline import Result


def write_reports(result: "Result", folder: Path) -> None:
    """Write report.json, report.junit.xml and report.html."""
    write_json(folder / "report.json", {"model": result.model, "targets": [plain(t) for t in result.targets]})
