"""`report.junit.xml`: one suite a target, one case a check, for the pages that CI systems draw."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from converter.bounds.printable import printable

# What XML 1.0 cannot hold at all, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(table: Mapping[str, Any]) -> str:
    """Return the document for a table of `report_table`. NOT_RUN is skipped; a target without checks is an error."""
    root = ET.Element("testsuites", name=_clean(f"plm-export {table['model']}"))
    for missed in table["budgets_missed"]:
        suite = ET.SubElement(root, "testsuite", name="compression")
        case = ET.SubElement(suite, "testcase", classname="compression", name="budget")
        ET.SubElement(case, "failure", message=_clean(missed))
        _count(suite)
    for target in table["targets"]:
        suite = ET.SubElement(root, "testsuite", name=_clean(f"{target['target']} ({target['precision']})"))
        checks = target["evaluation"]["checks"] if target["evaluation"] else []
        for check in checks:
            _case(suite, target["target"], check)
        if not checks or (target["status"] == "FAIL" and all(c["status"] != "FAIL" for c in checks)):
            case = ET.SubElement(suite, "testcase", classname=target["target"], name="made")
            if target["error"]:
                said = f"{target['error']}\n{target['hint'] or ''}".strip()
                ET.SubElement(case, "error", message=_clean(target["error"])).text = _clean(said)
            else:
                ET.SubElement(case, "skipped", message="no check ran")
        suite.set("time", f"{sum(r['seconds'] for r in target['records']):.3f}")
        _count(suite)
    _count(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, target: str, check: Mapping[str, Any]) -> None:
    case = ET.SubElement(suite, "testcase", classname=target, name=_clean(check["name"]))
    said = _clean(f"{check['detail']}\nfound {check['value']}, limit {check['limit']}".strip())
    message = _clean(check["detail"] or check["status"])
    if check["status"] == "FAIL":
        ET.SubElement(case, "failure", message=message).text = said
    elif check["status"] == "NOT_RUN":
        ET.SubElement(case, "skipped", message=message)
    else:
        ET.SubElement(case, "system-out").text = said


def _count(element: ET.Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(len(element.findall(f".//{tag}"))))


def _clean(text: str) -> str:
    return printable(FORBIDDEN.sub("\ufffd", text))
