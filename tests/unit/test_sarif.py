"""`report.sarif`: what SARIF 2.1.0 wants, and one result for each check that did not pass."""

from dataclasses import replace
from typing import Any

import pytest

from converter.errors import GateFailed, PackageDamaged, error_classes
from converter.jsonfile import json_text
from converter.report.sarif import sarif
from converter.report.summary import report_table
from converter.report.write import write_reports
from converter.validate.checks import Check, Status
from tests.unit.test_report import HOSTILE, evaluation, result, target

FAILED = Check("agreement", Status.FAIL, 0.5, 0.98, "half of the texts")
IDLE = Check("device", Status.NOT_RUN, None, None, "there is no GPU here")
GOOD = Check("finite", Status.PASS, 0.0, 0.0, "ok")


def log_of(*targets: Any) -> dict[str, Any]:
    return sarif(report_table(result(*targets)))


def faults(log: dict[str, Any]) -> list[str]:
    """Return what the standard requires (sections 3.13, 3.14, 3.18, 3.19, 3.27, 3.49) and a log has not."""
    found = [] if log.get("version") == "2.1.0" else ["version"]
    for run in log.get("runs") or [{}]:
        driver = run.get("tool", {}).get("driver", {})
        found += [] if isinstance(driver.get("name"), str) else ["driver.name"]
        rules = driver.get("rules", [])
        found += [f"rule {rule}" for rule in rules if not isinstance(rule.get("id"), str)]
        found += ["executionSuccessful"] * sum("executionSuccessful" not in i for i in run.get("invocations", [{}]))
        for one in run.get("results", [None]):
            found += [f"result without {key}" for key in ("message", "ruleId", "locations") if not one.get(key)]
            found += [] if isinstance(one.get("message", {}).get("text"), str) else ["message.text"]
            found += [] if one.get("level") in {"none", "note", "warning", "error"} else ["level"]
            found += [] if rules[one["ruleIndex"]]["id"] == one["ruleId"] else ["ruleIndex"]
            uri = one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            found += [uri] if uri.startswith("/") or ":" in uri or "\\" in uri else []
    return found


def results(log: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["ruleId"], one["level"]) for one in log["runs"][0]["results"]]


def test_what_failed_is_an_error_and_what_was_not_run_a_warning() -> None:
    log = log_of(target(Status.FAIL, evaluation=evaluation(FAILED, IDLE, GOOD), exit_code=3))
    assert faults(log) == []
    assert results(log) == [("PLM300/agreement", "error"), ("PLM300/device", "warning")]
    assert log["runs"][0]["invocations"] == [{"executionSuccessful": False, "exitCode": 3}]
    text = log["runs"][0]["results"][0]["message"]["text"]
    assert text == "cpu-int8: agreement: half of the texts (found 0.5, limit 0.98)"


def test_a_good_run_has_no_result_and_is_still_a_log() -> None:
    log = log_of(target(evaluation=evaluation(GOOD)))
    assert faults(log) == []
    assert results(log) == []
    assert log["runs"][0]["invocations"][0]["executionSuccessful"]


def test_a_target_that_was_not_made_is_a_result_with_the_code_of_its_error() -> None:
    broken = target(Status.FAIL, evaluation=None, folder=None, error="it broke", code="PLM500", exit_code=5)
    log = log_of(broken)
    assert results(log) == [("PLM500", "error")]
    assert faults(log) == []
    assert log["runs"][0]["tool"]["driver"]["rules"][0]["shortDescription"]["text"].startswith("A target needs")


@pytest.mark.parametrize("planted", ["version", "runs", "message", "level", "ruleIndex"])
def test_a_log_that_lacks_something_is_seen(planted: str) -> None:
    log = log_of(target(Status.FAIL, evaluation=evaluation(FAILED), exit_code=3))
    one = log["runs"][0]["results"][0]
    changed: dict[str, Any] = {
        "version": lambda: log.pop("version"),
        "runs": lambda: log.update(runs=[{"results": [], "invocations": []}]),
        "message": lambda: one.update(message={}),
        "level": lambda: one.update(level="bad"),
        "ruleIndex": lambda: log["runs"][0]["tool"]["driver"]["rules"].insert(0, {"id": "x"}),
    }
    changed[planted]()
    assert faults(log)


def test_the_same_fault_keeps_its_fingerprint_when_its_figures_change() -> None:
    logs = [
        log_of(target(Status.FAIL, evaluation=evaluation(replace(FAILED, value=v, detail=str(v))))) for v in (0.5, 0.6)
    ]
    first, second = (log["runs"][0]["results"][0]["partialFingerprints"] for log in logs)
    assert first == second
    other = log_of(target(Status.FAIL, evaluation=evaluation(replace(FAILED, name="max_error"))))
    assert other["runs"][0]["results"][0]["partialFingerprints"] != first


def test_text_of_users_is_written_as_json(tmp_path: Any) -> None:
    made = result(target(Status.FAIL, evaluation=evaluation(replace(FAILED, detail=HOSTILE)), exit_code=3))
    write_reports(made, tmp_path)
    assert (tmp_path / "report.sarif").read_text(encoding="utf-8") == json_text(sarif(report_table(made)))


def test_rules_are_described_by_the_codes_of_errors() -> None:
    assert {GateFailed, PackageDamaged} <= set(error_classes())
