"""`batch.json`, `report.junit.xml` and `report.html` of a batch."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.fleet.outcome import JSON_FILE, JUNIT_FILE, PAGE_FILE
from converter.jsonfile import json_values, write_json
from converter.report.junit import cleaned, count


def write_batch_reports(table: Mapping[str, Any], out: Path) -> None:
    """Write the three files; `table` is `batch_table`'s."""
    values = json_values(table)
    write_json(out / JSON_FILE, values)
    (out / JUNIT_FILE).write_text(batch_junit(values), encoding="utf-8")
    (out / PAGE_FILE).write_text(batch_page(values), encoding="utf-8")


def batch_junit(table: Mapping[str, Any]) -> str:
    """Return one suite a job, one case a check of each package; a job that made nothing is one error."""
    root = ET.Element("testsuites", name="plm-export batch")
    for job in table["jobs"]:
        suite = ET.SubElement(root, "testsuite", name=cleaned(job["name"]), time=f"{job['seconds']:.3f}")
        for package in job["packages"]:
            for check in _checks(package):
                _case(suite, f"{job['name']}.{package['target']}", check)
        for missed in job["budgets_missed"]:
            _case(suite, job["name"], {"name": "budget", "status": "FAIL", "detail": missed})
        if not job["packages"]:
            status = "PASS" if job["exit_code"] == 0 else "ERROR"
            _case(suite, job["name"], {"name": "job", "status": status, "detail": job["error"] or ""})
        count(suite)
    count(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _checks(package: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the checks of a package, and an error where it failed by none of them, as of one that was not made."""
    made = list(package["checks"])
    if package["status"] == "FAIL" and all(check["status"] != "FAIL" for check in made):
        made.append({"name": "made", "status": "ERROR", "detail": package["error"] or ""})
    return made or [{"name": "made", "status": "NOT_RUN", "detail": "no check ran"}]


def _case(suite: ET.Element, owner: str, check: Mapping[str, Any]) -> None:
    case = ET.SubElement(suite, "testcase", classname=cleaned(owner), name=cleaned(check["name"]))
    kind = {"FAIL": "failure", "ERROR": "error", "NOT_RUN": "skipped"}.get(check["status"])
    if kind:
        ET.SubElement(case, kind, message=cleaned(check["detail"] or check["status"]))


def batch_page(table: Mapping[str, Any]) -> str:
    """Return the page: one row a package, each linked to its own job's report. What comes from outside is escaped."""
    from converter.report import words
    from converter.report.page import page_environment

    jobs = table["jobs"]
    passed = sum(job["status"] == "PASS" for job in jobs)
    return (
        page_environment("fleet", "report")
        .get_template("batch.html.j2")
        .render(table=table, passed=passed, total=len(jobs), words=words)
    )
