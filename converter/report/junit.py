"""`report.junit.xml`: one suite a target, one case a check, for the pages that CI systems draw."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from converter.bounds.printable import printable
from converter.errors import GateFailed

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
# What XML 1.0 cannot hold at all, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(table: Mapping[str, Any]) -> str:
    """Return the document for a table of `report_table`. NOT_RUN is skipped; a target without checks is an error."""
    root = ET.Element("testsuites", name=cleaned(f"plm-export {table['model']}"))
    for missed in table["budgets_missed"]:
        suite = ET.SubElement(root, "testsuite", name="compression")
        case = ET.SubElement(suite, "testcase", classname="compression", name="budget")
        ET.SubElement(case, "failure", message=cleaned(missed))
        count(suite)
    for target in table["targets"]:
        suite = ET.SubElement(root, "testsuite", name=cleaned(f"{target['target']} ({target['precision']})"))
        checks = target["evaluation"]["checks"] if target["evaluation"] else []
        for check in checks:
            _case(suite, target["target"], check)
        if not checks or (target["status"] == "FAIL" and all(c["status"] != "FAIL" for c in checks)):
            case = ET.SubElement(suite, "testcase", classname=target["target"], name="made")
            if target["error"]:
                said = f"{target['error']}\n{target['hint'] or ''}".strip()
                ET.SubElement(case, "error", message=cleaned(target["error"])).text = cleaned(said)
            else:
                ET.SubElement(case, "skipped", message="no check ran")
        suite.set("time", f"{sum(r['seconds'] for r in target['records']):.3f}")
        count(suite)
    count(root)
    ET.indent(root)
    return DECLARATION + ET.tostring(root, encoding="unicode") + "\n"


def verify_junit(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the document for what `verify` found: one suite a package, one case a step.

    What was not reached is skipped. A package that is not proven is a failure, any other fault an error.
    """
    root = ET.Element("testsuites", name="plm-export verify")
    for row in rows:
        suite = ET.SubElement(root, "testsuite", name=cleaned(row["package"]))
        for step, status in row["steps"].items():
            case = ET.SubElement(suite, "testcase", classname=cleaned(row["package"]), name=step)
            if status == "NOT_RUN":
                ET.SubElement(case, "skipped", message="not reached")
            elif status == "FAIL":
                kind = "failure" if row["exit_code"] == GateFailed.exit_code else "error"
                said = f"{row['error']}\n{row['hint']}\nexit code {row['exit_code']}"
                ET.SubElement(case, kind, message=cleaned(row["error"])).text = cleaned(said)
        count(suite)
    count(root)
    ET.indent(root)
    return DECLARATION + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, target: str, check: Mapping[str, Any]) -> None:
    case = ET.SubElement(suite, "testcase", classname=target, name=cleaned(check["name"]))
    said = cleaned(f"{check['detail']}\nfound {check['value']}, limit {check['limit']}".strip())
    message = cleaned(check["detail"] or check["status"])
    if check["status"] == "FAIL":
        ET.SubElement(case, "failure", message=message).text = said
    elif check["status"] == "NOT_RUN":
        ET.SubElement(case, "skipped", message=message)
    else:
        ET.SubElement(case, "system-out").text = said


def count(element: ET.Element) -> None:
    """Write the numbers of cases, failures, errors and skipped ones that are in an element on it."""
    element.set("tests", str(len(element.findall(".//testcase"))))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(len(element.findall(f".//{tag}"))))


def cleaned(text: str) -> str:
    """Return text without the characters that XML cannot hold, and those that a terminal obeys."""
    return printable(FORBIDDEN.sub("\ufffd", text))
