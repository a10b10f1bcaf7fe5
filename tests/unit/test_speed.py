"""What each length of a file costs, for people: filled to its last token, and no longer than there is time."""

from collections.abc import Callable, Mapping
from itertools import count, groupby
from pathlib import Path
from typing import Any

import pytest

from converter.data.probes import builtin_examples, choose_probes
from converter.model_folder.load import load_source
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.validate import speed
from converter.validate.speed import LEAST, TURNS, race, time_lengths


@pytest.mark.parametrize(("budget", "timed"), [(60.0, [8, 16, 24]), (-1.0, [])])
def test_every_length_is_timed_filled_while_there_is_time(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, budget: float, timed: list[int]
) -> None:
    monkeypatch.setattr(speed, "BUDGET_SECONDS", budget)
    source = load_source(str(tiny("bert", layers=1)))
    reference = capture_reference(source, choose_probes((), builtin_examples(source), 6), SILENT, ())
    fed: list[tuple[int, bool]] = []

    def run(graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        fed.append((feed["input_ids"].shape[1], bool(feed["attention_mask"].all())))
        return {}

    found = time_lengths(source, reference.probes, run, (8, 16, 24), SILENT)
    assert list(found) == timed
    assert {n for n, _ in fed} == set(timed)
    assert all(filled for _, filled in fed)


def test_without_texts_nothing_is_timed(tiny: Callable[..., Path]) -> None:
    assert time_lengths(load_source(str(tiny("bert", layers=1))), (), dict, (8,), SILENT) == {}


def test_each_is_called_several_times_in_a_row_on_a_text(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    probes = capture_reference(source, choose_probes((), builtin_examples(source), 6), SILENT, ()).probes
    calls: list[str] = []
    runs = {name: lambda *_, name=name: calls.append(name) or {} for name in "ab"}  # type: ignore[misc,func-returns-value]
    race(source, probes, runs, SILENT, 0)
    in_a_row = [len(list(same)) for _, same in groupby(calls)]
    assert min(in_a_row) >= TURNS[0], "behind another's call its weights would be read from memory"
    assert len(in_a_row) == 2 * LEAST


def test_timing_ends_where_more_texts_would_tell_nothing_and_else_when_its_time_is_over(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    probes = capture_reference(source, choose_probes((), builtin_examples(source), 40), SILENT, ()).probes
    clock = iter(count())
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)))

    def run(graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    assert len(race(source, probes, {"a": run, "b": run}, SILENT, 1e9)["a"]) == LEAST
    uneven = iter(count())

    def now_and_then(graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        for _ in range(next(uneven) // TURNS[1] % 2 * 20):
            next(clock)
        return {}

    assert len(race(source, probes, {"a": now_and_then, "b": run}, SILENT, 1e9)["a"]) > LEAST
    assert len(race(source, probes, {"a": now_and_then, "b": run}, SILENT, 0)["a"]) == LEAST
