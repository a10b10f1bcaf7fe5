"""`report.sarif`: what failed and what could not be checked, as SARIF 2.1.0, for the pages of code hosts."""

import hashlib
from collections.abc import Mapping
from typing import Any

from converter.errors import OTHERS, GateFailed, error_classes

VERSION = "2.1.0"
LEVELS = {"FAIL": "error", "NOT_RUN": "warning"}
"""Checks that passed are left out: code hosts show every result as something to look at."""


def sarif(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log for a table of `report_table`: one result for each check that did not pass."""
    results = [_missed(text) for text in table["budgets_missed"]]
    for target in table["targets"]:
        results += _of_target(target)
    known = {cls.code: " ".join((cls.__doc__ or "").split()) for cls in error_classes()}
    known |= {code: cause for code, (_, cause, _) in OTHERS.items()}
    rules = sorted({result["ruleId"] for result in results})
    for result in results:
        result["ruleIndex"] = rules.index(result["ruleId"])
    driver = {
        "name": table["tool"]["name"],
        "version": table["tool"]["version"],
        "rules": [{"id": rule, "shortDescription": {"text": known.get(rule.split("/")[0], rule)}} for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": table["exit_code"] == 0, "exitCode": table["exit_code"]}],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": VERSION, "runs": [run]}


def _of_target(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    checks = target["evaluation"]["checks"] if target["evaluation"] else []
    made = []
    for check in checks:
        if check["status"] in LEVELS:
            figures = f" (found {check['value']}, limit {check['limit']})" if check["limit"] is not None else ""
            text = f"{target['target']}: {check['name']}: {check['detail'] or check['status']}{figures}"
            rule = f"{GateFailed.code}/{check['name']}"
            made.append(_result(rule, LEVELS[check["status"]], text, _place(target)))
    if not made and target["error"]:
        text = f"{target['target']}: {target['error']}"
        made.append(_result(target["code"] or GateFailed.code, "error", text, _place(target)))
    return made


def _missed(text: str) -> dict[str, Any]:
    return _result(f"{GateFailed.code}/budget", "error", text, "recipe.toml")


def _place(target: Mapping[str, Any]) -> str:
    """Return the file of the output that a result is about: code hosts show none without one."""
    if target["folder"] is None:
        return "recipe.toml"
    return f"{target['folder']}/{'rejected.json' if target['status'] == 'FAIL' else 'manifest.json'}"


def _result(rule: str, level: str, text: str, file: str) -> dict[str, Any]:
    location = {"artifactLocation": {"uri": file, "uriBaseId": "OUT"}, "region": {"startLine": 1}}
    # By these, a code host tells a result of today from the same one of yesterday: figures are not in it.
    fingerprint = hashlib.sha256(f"{rule} {file}".encode()).hexdigest()
    return {
        "ruleId": rule,
        "level": level,
        "kind": "fail",
        "message": {"text": text},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"plm-export/v1": fingerprint},
    }
