"""The page of a search: what is drawn, what is escaped, what it says of its own figures."""

import re
from typing import Any

import pytest

from converter.search.figures import Figures, State, Trial
from converter.search.finalists import Finalist
from converter.search.report import caution, panels, search_page, verdict, wanted
from converter.search.space import recipe_of

LATENCY, SPEED = {"latency_ms": 2.5}, {"speedup": 1.5}
HOSTILE = "<script>alert('&\"')</script>"


def trial(number: int, loss: float, ms: float, mb: float, start: str = "", **options: Any) -> Trial:
    compress = [{"stage": "prune.structured", "speedup": 1.5 + number / 4}] if number else []
    recipe = recipe_of("cpu-int8", {"precision": "static", **options}, compress)
    return Trial(number, recipe, State.MEASURED, start, Figures(loss, 0.9 - loss, loss, 1 - loss, ms, 3 / ms, mb))


def table(**changed: Any) -> dict[str, Any]:
    trials = [
        trial(0, 0.0, 3.0, 23.0, "plain"),
        trial(1, 0.01, 2.2, 18.0, "balanced"),
        trial(2, 0.004, 1.6, 12.0),
        trial(3, 0.03, 1.7, 13.0),
        Trial(4, recipe_of("cpu-int8", {"precision": HOSTILE}, ()), State.REFUSED, said=HOSTILE),
    ]
    best = Finalist(trials[2], "cpu-int8", "PASS", 0, figures=trials[2].figures, folder="best")
    start = Finalist(trials[1], "cpu-int8", "PASS", 0, figures=trials[1].figures)
    return {
        "model": HOSTILE,
        "task": "text-classification",
        "metric": "accuracy",
        "source_metric": 0.9,
        "source_eval": None,
        "n_eval": None,
        "goal": {"max_drop": 0.02, "latency_ms": 2.5},
        "minimized": ["megabytes"],
        "targets": ["cpu-int8"],
        "seconds": 100.0,
        "effort": 0.3,
        "text": {"learning": "learning.jsonl", "tuning": "tuning.jsonl", "n_learning": 300, "n_tuning": 100},
        "plain_ms": {"cpu-int8": 3.0},
        "trials": [t.table() for t in trials],
        "finalists": [f.table() for f in (best, start)],
        "optimism": 0.004,
        "gain": {"over": "balanced", "by": "loss", "value": 0.02, "low": 0.01, "sure": True, "text": "tuning text"},
        "missed": [],
        "out": "out",
    } | changed


def test_every_package_is_a_mark_in_both_drawings_that_tells_its_recipe() -> None:
    page = search_page(table())
    assert page.count('<svg viewBox="0 0 460') == 2
    marks = re.findall(r'<g tabindex="0">.*?</g>', page, re.DOTALL)
    assert len(marks) == 2 * (4 + 1)
    assert all("<title>" in mark and "cpu-int8=static" in mark for mark in marks)
    assert page.count('class="dot plain"') == 2
    assert page.count("limit-line") >= 3
    assert "prune.structured:speedup=2" in page


def test_what_comes_from_outside_is_escaped() -> None:
    page = search_page(table())
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_says_how_many_trials_on_what_text_and_the_expected_optimism() -> None:
    page = search_page(table())
    assert "5 trials" in page
    assert "300 texts to learn from" in page
    assert "100 to choose by" in page
    assert "by about 0.40 points" in page
    assert "1 refused" in page


@pytest.mark.parametrize(
    ("metric", "n_eval", "warned"),
    [(0.80, 872, True), (0.88, 872, False), (0.80, 40, False), (0.95, 872, False)],
    ids=["far below", "a little below", "few texts", "above"],
)
def test_a_model_that_knows_the_text_it_is_chosen_by_is_named(metric: float, n_eval: int, warned: bool) -> None:
    given = table(source_eval=metric, n_eval=n_eval)
    given["text"]["n_tuning"] = 2000
    said = f"The model knows the calibration text: accuracy 0.900 there, {metric:.3f} on --eval"
    assert caution(given).startswith(said) is warned
    assert (said in search_page(given)) is warned


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({}, "PASS", "Better than balanced by 2.00 points on tuning text, at least 1.00 with 95 % confidence"),
        ({"missed": ["it is slow"]}, "FAIL", "The goal was not met; the nearest is kept: it is slow"),
        ({"finalists": []}, "FAIL", "No package could be made"),
        (
            {"gain": {"over": "x", "by": "loss", "value": 0.001, "low": -0.01, "sure": False, "text": "--eval"}},
            "PASS",
            "No sure gain over x: 0.10 points on --eval, which may be chance",
        ),
        (
            {"gain": {"over": "x", "by": "milliseconds", "value": 0.5, "low": 0.4, "sure": True, "text": ""}},
            "PASS",
            "2.00 times as fast as x",
        ),
    ],
)
def test_the_verdict_claims_what_is_sure_and_no_more(changed: dict[str, Any], status: str, said: str) -> None:
    assert verdict(table(**changed)) == (status, said)


def test_where_a_start_has_won_no_gain_is_claimed() -> None:
    given = table(gain=None)
    given["finalists"] = given["finalists"][::-1]
    assert verdict(given) == ("PASS", "Nothing better than balanced was found")


def test_a_gain_over_a_start_that_breaks_a_limit_is_told_as_what_it_is() -> None:
    """The winner may be larger than that one: to call it no gain, or a loss, would mislead."""
    smaller = {"over": "balanced", "by": "megabytes", "value": -0.1, "low": -0.12, "sure": False, "text": "tuning text"}
    too_slow = "a text takes 2.2 ms, at most 2.0 ms are wanted (1.10 times as much)"
    said = verdict(table(gain=smaller, goal={"max_drop": 0.02, "latency_ms": 2.0}))
    assert said == (
        "PASS",
        f"The limits are kept, which balanced breaks: {too_slow}",
    )
    kept = table(gain=smaller)
    assert verdict(kept) == ("PASS", "No sure gain over balanced: -10.0 % smaller")


def test_the_limit_that_is_drawn_is_the_one_that_binds() -> None:
    """At 3 ms of plain: 1.5 times as fast is 2 ms."""
    lines = [panels(table(goal=goal))[0].limit_x for goal in (LATENCY, SPEED, LATENCY | SPEED)]
    assert lines[2] == lines[1] < lines[0]  # type: ignore[operator]
    assert panels(table(metric=None, goal={"min_agreement": 0.98}))[0].limit_y is not None
    assert panels(table(goal={"min_agreement": 0.98}))[0].limit_y is None, "the metric is drawn there"


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({}, "The front of accuracy, time and size"),
        ({"max_drop": 0.005}, "At most 0.5 points of the metric to lose"),
        ({"speedup": 2.0, "size_mb": 10.0}, "At most 10 MB, at least 2 times as fast as plain"),
    ],
)
def test_the_goal_is_told_in_words(goal: dict[str, float], said: str) -> None:
    assert wanted(goal, "accuracy") == said
