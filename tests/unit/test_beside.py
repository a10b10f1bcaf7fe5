"""Timing beside each other: all take turns, the worth is told, and what a file cannot take is refused."""

import time
from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.graphs import ENCODER_INPUTS, ModelFacts, encoder_graph
from converter.timing.comparison import FLOAT32, SOURCE, Entry, time_beside

SPECS = encoder_graph(ModelFacts(tuple(ENCODER_INPUTS), vocabulary=10), ())


def entry(name: str, seconds: float, size: int, calls: list[str] | None = None, **limits: Any) -> Entry:
    def run(graph: str, feed: Any) -> dict[str, Any]:
        assert graph == "model"
        if calls is not None:
            calls.append(name)
        time.sleep(seconds)
        return {}

    return Entry(name, run, SPECS, size, **limits)


def test_all_take_turns() -> None:
    calls: list[str] = []
    rows = time_beside([entry(n, 0.0005, 1, calls) for n in "ab"], 1, 8, 0.01)
    timed = calls[6:]
    assert timed[::2] == ["a"] * (len(timed) // 2)
    assert timed[1::2] == ["b"] * (len(timed) // 2)
    assert all(0 < r["p10"] <= r["milliseconds"] <= r["p90"] for r in rows)
    assert rows[0]["runs"] == rows[1]["runs"] >= 10
    assert "faster_than_float32" not in rows[0], "there is nothing to compare with"


def test_a_package_that_is_neither_smaller_nor_faster_is_marked() -> None:
    rows = time_beside(
        [entry("large", 0.003, 200), entry("small", 0.003, 20), entry(SOURCE, 0.004, 100), entry(FLOAT32, 0.001, 101)],
        1,
        8,
        0.01,
    )
    found = {r["package"]: r for r in rows}
    assert "neither smaller" in found["large"]["not_worth_it"]
    assert found["small"]["not_worth_it"] is None
    assert found["small"]["faster_than_float32"] < 1
    assert "not_worth_it" not in found[SOURCE]


def test_feeds_are_of_the_vocabulary_and_the_same_every_time() -> None:
    made, again = entry("one", 0, 1).feed(2, 8), entry("another", 0, 1).feed(2, 8)
    assert made["input_ids"].max() < 10
    assert (made["attention_mask"] == 1).all()
    assert (made["token_type_ids"] == 0).all()
    np.testing.assert_array_equal(made["input_ids"], again["input_ids"])


def test_what_a_file_cannot_take_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 1 text"):
        time_beside([entry("one", 0, 1, max_batch=1)], 2, 8, 0.01)
    with pytest.raises(UsageError, match="at most 16 tokens"):
        time_beside([entry("short", 0, 1, lengths=(8, 16))], 1, 32, 0.01)
