"""All reports of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from converter.jsonfile import write_json
from converter.report.junit import junit
from converter.report.page import page
from converter.report.sarif import sarif
from converter.report.summary import JSON_FILE, JUNIT_FILE, PAGE_FILE, SARIF_FILE, report_table

if TYPE_CHECKING:
    from converter.pipeline import Result


def write_reports(result: "Result", folder: Path) -> None:
    """Write report.json (everything), report.junit.xml and report.sarif (for CI) and report.html (for people)."""
    table = report_table(result)
    write_json(folder / JSON_FILE, table)
    (folder / JUNIT_FILE).write_text(junit(table), encoding="utf-8")
    write_json(folder / SARIF_FILE, sarif(table))
    (folder / PAGE_FILE).write_text(page(table), encoding="utf-8")
