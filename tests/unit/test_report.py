"""The reports of a run: what is escaped, what is counted, what is never passed over."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.commands.terminal import Terminal
from converter.pipeline import Result, TargetResult
from converter.recipe import bind_recipe
from converter.report import charts, words
from converter.report.page import headline
from converter.report.summary import _now, overall, report_table
from converter.report.table import blocks, columns, notes, rows, show
from converter.report.write import write_reports
from converter.stage import Record
from converter.validate.checks import Check, Deviation, Evaluation, Status, WorstText

HOSTILE = "<script>alert('&\"')</script>\x00\x1b[31m\ud800 end"


def evaluation(*checks: Check, errors: tuple[float, ...] = (0.001, 0.02), text: str = "fine") -> Evaluation:
    return Evaluation(
        checks=checks or (Check("max_error", Status.PASS, 0.02, 0.1, "ok"), Check("agreement", Status.PASS, 1.0, 0.98)),
        deviations=(Deviation("logits", max(errors), sum(errors) / len(errors), 0.999, p99_error=max(errors) / 2),),
        agreement=0.9999,
        metric={"accuracy": 0.87},
        source_metric={"accuracy": 0.88},
        n_probes=len(errors),
        errors=errors,
        worst=(WorstText(text, "positive", "negative", 0.02),),
        milliseconds={"package": 2.0, "source": 8.0, "package_16": 1.0, "source_16": 4.0},
        facts={"runtime": "some 1.0"},
    )


def result(*targets: TargetResult, model: str = "some-model") -> Result:
    record = Record("prune.structured", {"heads": 0.5}, 1.5, 100, 60, 10**9, pruned(), "a" * 64, "b" * 64)
    return Result(
        bind_recipe({"model": "m", "targets": ["cpu-int8"]}),
        model,
        "text-classification",
        Path("out"),
        100_000_000,
        targets or (target(),),
        (record,),
        evaluation(),
    )


def pruned() -> dict[str, Any]:
    layer = {"layer": 0, "heads_kept": [*range(1, 8)], "heads_before": 12, "neurons_kept": 500, "neurons_before": 1536}
    return {"plan": [layer], "loss_curve": [[1, 2.0], [2, 1.0]]}


def target(status: Status = Status.PASS, **changes: Any) -> TargetResult:
    made = TargetResult(
        "cpu-int8",
        "dynamic",
        status,
        0,
        "cpu-int8",
        25_000_000,
        evaluation(),
        (Record("export", {}, 2.0, 1, 2, 3, {}, "b" * 64, "c" * 64),),
    )
    return replace(made, **changes)


def failed() -> TargetResult:
    found = evaluation(Check("agreement", Status.FAIL, 0.9, 0.98, "9 of 10"))
    drift = {"boundaries": [{"step": "prune.structured", "max_error": 0.34, "agreement": 0.9, "detail": ""}]}
    found = replace(found, facts=found.facts | drift)
    return target(Status.FAIL, exit_code=3, evaluation=found, error="gate: agreement: 9 of 10", hint="try another")


def missing() -> TargetResult:
    return TargetResult("tflite", "int8", Status.FAIL, 5, error="litert is not installed", hint="pip install it")


def unproven() -> TargetResult:
    check = Check("device", Status.NOT_RUN, detail="no CUDA device")
    passed = evaluation().checks
    return target(evaluation=evaluation(*passed, check))


def reports(tmp_path: Path, made: Result) -> tuple[dict[str, Any], ET.Element, str]:
    write_reports(made, tmp_path)
    table = json.loads((tmp_path / "report.json").read_text())
    suites = ET.fromstring((tmp_path / "report.junit.xml").read_bytes())
    return table, suites, (tmp_path / "report.html").read_text()


def test_source_date_epoch_is_the_time_of_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert _now().isoformat() == "1970-01-02T00:00:00+00:00"
    for none in ("", "yesterday"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", none)
        assert _now().year > 2020


def test_hostile_text_is_shown_not_run(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("\ud800", "")
    bad = Check("agreement", Status.FAIL, 0.1, 0.9, hostile)
    made = result(
        target(Status.FAIL, evaluation=evaluation(bad, text=hostile), error=hostile, hint=hostile), model=hostile
    )
    table, suites, page = reports(tmp_path, made)
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert table["targets"][0]["error"] == hostile
    failure = suites.find(".//failure")
    assert failure is not None
    assert "<script>alert" in (failure.text or "")


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    reports(tmp_path, result(target(evaluation=evaluation(text=HOSTILE)), model=HOSTILE))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = reports(tmp_path, result(target(), failed(), missing()))[2]
    assert not re.search(r"(?:https?:)?//|<link|<img|<script|@import|url\(|\bsrc=", page)


def test_what_a_package_writes_in_a_second_and_where_the_time_goes_is_drawn(tmp_path: Path) -> None:
    writing = {
        "prompt_tokens": 24,
        "tokens": 16,
        "tokens_per_second": {"package": 138.0, "source": 23.5},
        "first_token_ms": {"package": 40.0, "source": 90.0},
        "parts_ms": {"the prompt": 40.0, "further tokens": 100.0, "choosing them": 2.0},
    }
    found = replace(evaluation(), facts={"runtime": "some 1.0", "speed": {"writing": writing}})
    page = reports(tmp_path, result(target(evaluation=found)))[2]
    assert "138.0 tokens/s" in page
    assert "after a prompt of 24 tokens" in page
    assert "Where the time of one text goes" in page
    drawn = charts.writing_speed(found.facts)
    assert drawn is not None
    assert [(bar.label, bar.share) for bar in drawn.parts] == [
        ("the prompt", 0.4), ("further tokens", 1.0), ("choosing them", 0.02)
    ]  # fmt: skip
    assert [bar.is_source for bar in drawn.tokens_per_second] == [True, False]
    assert "Tokens per second" not in reports(tmp_path, result(target()))[2]


def test_every_verdict_stands_in_words_not_only_in_color(tmp_path: Path) -> None:
    page = reports(tmp_path, result(target(), failed(), unproven()))[2]
    for word in ("PASS", "FAIL", "NOT RUN"):
        assert word in re.sub(r"<style>.*</style>|<[^>]+>", " ", page, flags=re.DOTALL)


def test_the_page_shows_compression_and_problems(tmp_path: Path) -> None:
    page = reports(tmp_path, result(failed(), missing()))[2]
    assert re.search(r"prune.structured</th>\s*<td[^>]*><span>34 %", page)
    for words_of_it in (
        "7 of 12 heads",
        "500",
        "The loss falls from 2.0000 to 1.0000",
        "try another",
        "pip install it",
    ):
        assert words_of_it in page


def test_facts_of_another_form_are_left_out_of_the_page_and_break_nothing(tmp_path: Path) -> None:
    odd = {"plan": [3, {"heads_kept": 1}], "loss_curve": {"a": 1}, "boundaries": "none", "nested": {"a": [1]}}
    made = result(target(evaluation=replace(evaluation(), facts=odd)))
    made = replace(made, compress_records=(replace(made.compress_records[0], facts=odd),))
    assert "What is left" not in reports(tmp_path, made)[2]


def test_report_json_holds_what_was_run(tmp_path: Path) -> None:
    made = result(target(), failed(), missing())
    table = reports(tmp_path, made)[0]
    assert table["format"] == 1
    assert table["exit_code"] == made.exit_code == 5
    assert table["status"] == "FAIL"
    assert [t["status"] for t in table["targets"]] == ["PASS", "FAIL", "FAIL"]
    assert table["targets"][0]["evaluation"]["errors"] == [0.001, 0.02]
    assert table["targets"][2]["evaluation"] is None
    assert table["source"]["metric"] == {"accuracy": 0.88}
    assert table["source"]["milliseconds"] == 8.0
    assert bind_recipe(table["recipe"]) == made.recipe
    assert "torch" in table["versions"]


def test_numbers_that_are_not_finite_are_null_and_no_json_breaks(tmp_path: Path) -> None:
    broken = replace(evaluation(), agreement=math.nan, errors=(math.inf, 0.1), metric={"accuracy": math.nan})
    table, _, page = reports(tmp_path, result(target(Status.FAIL, evaluation=broken)))
    assert table["targets"][0]["evaluation"]["agreement"] is None
    assert table["targets"][0]["evaluation"]["errors"] == [None, 0.1]
    assert "1 more texts gave no finite number" in page


def test_a_run_without_labels_or_times_has_its_reports_too(tmp_path: Path) -> None:
    bare = replace(evaluation(), metric={}, source_metric={}, milliseconds={}, errors=(), worst=(), deviations=())
    page = reports(tmp_path, result(target(evaluation=bare)))[2]
    assert "PASS" in page
    assert rows(report_table(result(target(evaluation=bare))))[2][2:6] == ("–", "99.9 %", "–", "–")


def test_junit_counts_failures_errors_and_what_did_not_run(tmp_path: Path) -> None:
    suites = reports(tmp_path, result(target(), failed(), missing(), unproven()))[1]
    found = {key: int(suites.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    assert found == {"tests": 2 + 1 + 1 + 3, "failures": 1, "errors": 1, "skipped": 1}
    assert len(suites.findall("testsuite")) == 4


def test_a_target_that_failed_outside_its_checks_is_an_error_in_junit(tmp_path: Path) -> None:
    suites = reports(tmp_path, result(target(Status.FAIL, exit_code=6, error="cannot be opened")))[1]
    assert [e.attrib["message"] for e in suites.iter("error")] == ["cannot be opened"]


def test_only_a_run_whose_targets_all_passed_is_passed() -> None:
    assert overall(result(target(), target())) is Status.PASS
    assert overall(result(target(), target(Status.NOT_RUN))) is Status.NOT_RUN
    assert overall(result(target(Status.NOT_RUN), failed())) is Status.FAIL
    assert headline([{"target": "a", "status": "NOT_RUN"}])["status"] == "NOT_RUN"


def test_a_missed_budget_fails_a_run_whose_packages_all_passed(tmp_path: Path) -> None:
    met = result(target())
    said = "2 ms is the least that can be left, 1 ms was asked for"
    record = replace(met.compress_records[0], facts={"budget_missed": said})
    missed = replace(met, compress_records=(record,))
    assert (met.exit_code, missed.exit_code) == (0, 3)
    assert overall(missed) is Status.FAIL
    assert notes(report_table(missed)) == [f"FAIL: prune.structured: {said}"]
    table, suites, page = reports(tmp_path, missed)
    assert table["status"] == "FAIL"
    assert [e.attrib["message"] for e in suites.iter("failure")] == [f"prune.structured: {said}"]
    assert f"but prune.structured: {said}" in page
    assert said not in reports(tmp_path, met)[2]


def test_the_table_has_a_row_for_source_compressed_and_each_package() -> None:
    found = rows(report_table(result(target(), missing())))
    assert [r[0] for r in found] == ["some-model", "compressed", "cpu-int8 (dynamic)", "tflite (int8)"]
    assert columns(report_table(result()))[4] == "accuracy"
    assert found[0][4] == "0.8800"
    assert found[2] == (
        "cpu-int8 (dynamic)",
        "25.0 MB (4.0×)",
        "2.00 ms (4.0×)",
        "99.9 %",
        "0.8700",
        "1 %",
        "PASS",
    )
    assert found[3][-1] == "FAIL"


def test_the_table_has_the_typical_error_and_the_page_the_worst_with_its_text(tmp_path: Path) -> None:
    made = result(target(evaluation=evaluation(errors=(0.001, 0.66), text="one odd text")))
    table, _, page = reports(tmp_path, made)
    assert rows(table)[2][5] == "33 %"
    assert re.search(r"the worst has 66 %: <span[^>]*>“one odd text”</span>", page)


def test_a_report_of_an_earlier_version_has_no_typical_error() -> None:
    table = report_table(result(target()))
    del table["targets"][0]["evaluation"]["deviations"][0]["p99_error"]
    assert rows(table)[2][5] == "–"


def test_what_did_not_run_is_said_under_the_table() -> None:
    assert notes(report_table(result(unproven()))) == ["not run: cpu-int8 device: no CUDA device"]
    assert notes(report_table(result(target()))) == []


def test_a_narrow_window_gets_blocks_with_the_same_figures() -> None:
    table = report_table(result(target()))
    lines = "\n".join(blocks(columns(table), rows(table)))
    assert "cpu-int8 (dynamic)  PASS" in lines
    assert "25.0 MB (4.0×)" in lines
    assert max(map(len, lines.splitlines())) < 40


def test_the_table_is_plain_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    with terminal.hushed():
        show(result(target(), failed()), terminal)
    said = capfd.readouterr().out
    assert "\x1b" not in said
    assert "cpu-int8 (dynamic)" in said
    assert str(Path("out/report.html")) in said


@given(st.lists(st.floats(0, 10), min_size=1), st.none() | st.floats(1e-6, 1))
def test_a_histogram_counts_every_text_once(errors: list[float], limit: float | None) -> None:
    drawn = charts.histogram(errors, limit)
    assert drawn is not None
    assert sum(b.count for b in drawn.bins) == drawn.n == len(errors)
    assert max(b.share for b in drawn.bins) == 1
    assert all(0 <= at <= 1 for at, _ in drawn.ticks)
    assert limit is None or drawn.limit_at is not None
    assert sum(b.count for b in drawn.bins if b.over) <= sum(e >= (limit or 0) * (1 - 1e-6) for e in errors)


def test_nothing_finite_draws_nothing() -> None:
    assert charts.histogram([], None) is None
    assert charts.histogram([None], 0.1) is None


@pytest.mark.parametrize("facts", [{}, {"speed": {}}, {"speed": None}, {"speed": {"ms_by_signature": None}}])
def test_a_file_of_any_length_has_no_cost_of_each(facts: dict[str, Any]) -> None:
    assert charts.by_signature(facts) == []


def test_the_cost_of_each_length_is_drawn() -> None:
    drawn = charts.by_signature({"speed": {"ms_by_signature": {"128": 4.0, "16": 1.0}}})
    assert [(b.label, b.value, b.share) for b in drawn] == [("16 tokens", 1.0, 0.25), ("128 tokens", 4.0, 1.0)]


@given(st.lists(st.none() | st.floats(0, 1e9)))
def test_bars_never_leave_their_track(values: list[float | None]) -> None:
    drawn = charts.bars([("x", v, False) for v in values])
    assert [b.value for b in drawn] == values
    assert all(0 <= b.share <= 1 for b in drawn)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (words.share(0.99996), "99.9 %"),
        (words.share(1.0), "100 %"),
        (words.share(None), "–"),
        (words.size(999), "1.0 kB"),
        (words.size(90_900_000), "90.9 MB"),
        (words.milliseconds(0.567), "0.57 ms"),
        (words.error(2e-6), "< 0.001 %"),
        (words.error(0.0), "0 %"),
        (words.error(0.171), "17 %"),
        (words.times(100, 25), "4.0×"),
        (words.times(None, 25), ""),
        (words.seconds(74), "1 min 14 s"),
        (words.number(2e-6), "2.0e-06"),
    ],
)
def test_numbers_read_as_people_write_them(said: str, wanted: str) -> None:
    assert said == wanted
