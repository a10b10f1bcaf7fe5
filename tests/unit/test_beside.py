"""Timing beside each other: all take turns, the worth is told, and what a file cannot take is refused."""

import time
from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.generate.graphs import causal_graphs
from converter.graphs import ENCODER_INPUTS, ModelFacts, encoder_graph
from converter.timing.comparison import FLOAT32, SOURCE, Entry, time_beside
from converter.timing.operators import by_part
from converter.timing.writing import time_writing

SPECS = encoder_graph(ModelFacts(tuple(ENCODER_INPUTS), vocabulary=10), ())


def entry(name: str, seconds: float, size: int, calls: list[str] | None = None, **limits: Any) -> Entry:
    def run(graph: str, feed: Any) -> dict[str, Any]:
        assert graph == "model"
        if calls is not None:
            calls.append(name)
        time.sleep(seconds)
        return {}

    return Entry(name, run, SPECS, size, **limits)


def test_all_take_turns_and_each_call_is_timed_behind_one_of_its_own() -> None:
    calls: list[str] = []
    rows = time_beside([entry(n, 0.0005, 1, calls) for n in "ab"], 1, 8, 0.01)
    timed = calls[6:]
    assert timed == list("aabb") * (len(timed) // 4)
    assert rows[0]["runs"] == len(timed) // 4
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


def writer(name: str, seconds: float, size: int = 1, positions: int | None = None) -> Entry:
    """A model of one layer that takes `seconds` for a step, and as much for each token of a prompt."""
    specs = causal_graphs({"0.key": (2, 4), "0.value": (2, 4)}, 11, 0)

    def run(graph: str, feed: Any) -> dict[str, Any]:
        rows, length = feed["input_ids"].shape
        time.sleep(seconds * length)
        past = feed["past_key_values.0.key"].shape[2]
        cache = np.zeros((rows, 2, past + length, 4), dtype=np.float32)
        logits = np.zeros((rows, length, 11), dtype=np.float32)
        return {"logits": logits, "present.0.key": cache, "present.0.value": cache}

    return Entry(name, run, specs, size, positions=positions)


def test_a_writer_is_timed_by_prompt_and_by_token_and_its_cache_is_counted() -> None:
    slow, fast = time_writing([writer("slow", 0.04), writer("fast", 0.001)], 1, 10, 0.01, 5)
    assert 0 < fast["tokens_per_second"] <= 1000
    assert slow["tokens_per_second"] < fast["tokens_per_second"] / 2
    assert slow["first_token_ms"] >= 400
    assert slow["prefill_ms"] == pytest.approx(slow["first_token_ms"] / 10, rel=1e-3)
    # Two tensors of 2 heads, 15 positions (prompt and tokens) and 4 numbers of 4 bytes.
    assert fast["cache_mb"] == pytest.approx(2 * 2 * 15 * 4 * 4 / 1e6, abs=5e-4)


def test_a_writer_is_compared_with_its_source_and_its_float32_file() -> None:
    entries = [writer("p", 0.001, 20), writer(SOURCE, 0.004, 100), writer(FLOAT32, 0.002, 100)]
    row, *_ = time_writing(entries, 1, 4, 0.01, 3)
    assert 1.2 < row["faster_than_float32"] < 4
    assert row["not_worth_it"] is None


def test_a_prompt_that_leaves_no_room_for_the_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="10 tokens and 8 after them are too many"):
        time_writing([writer("p", 0.0, positions=16)], 1, 10, 0.01, 8)


def event(kind: str, start: int, took: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{kind}_kernel_time", "ts": start, "dur": took, "args": {"op_name": kind}}


def test_the_last_product_of_a_step_is_its_output_layer_and_the_prompt_is_left_out() -> None:
    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 90} for ts in (0, 100, 200)]
    steps = [
        (event("MatMulNBits", at + 1, 10), event("Concat", at + 20, 5), event("Softmax", at + 30, 3), last)
        for at in (0, 100, 200)
        for last in (event("MatMul", at + 40, 1000 if at == 0 else 20),)
    ]
    found = by_part([*runs, *(e for step in reversed(steps) for e in step)], 2)
    assert found == {"output layer": 0.02, "other products": 0.01, "shapes and cache": 0.005, "rest": 0.003}
