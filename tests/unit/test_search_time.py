"""A search keeps to its time: what trials are made with, what is kept for finalists, and what is left out of those."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.context import Resolved
from converter.errors import ResourceLimit
from converter.recipe import Recipe, bind_recipe, save_recipe
from converter.search import whole
from converter.search.estimates import FACTORS, SHARES, effort_share, off_by, seconds_in_full
from converter.search.figures import Figures, State, Trial
from converter.search.finalists import FURTHER, ROUNDS, Finalist, Finals, decide
from converter.search.folder import SearchFolder
from converter.search.goal import Goal
from converter.search.making import Done, Work
from converter.search.reserve import MOST, Pace, Reserve
from converter.search.space import recipe_of
from converter.search.study import WORST
from converter.search.workbench import Told
from converter.stage import SILENT
from tests.notes import Notes


def trial(number: int, loss: float, *, start: str = "", seconds: float = 10.0, ms: float = 1.0) -> Trial:
    stages = [{"stage": "distill.soft", "steps": 100 * (number + 1)}]
    recipe = recipe_of("cpu-int8", {"precision": "static"}, stages)
    figures = Figures(loss, 1 - loss, loss, 1 - loss, ms, 2.0 / ms, 10.0)
    return Trial(number, recipe, State.MEASURED, start, figures, seconds=seconds)


class Passes:
    """A bench that knows how many passes a recipe takes: those of its training."""

    def foretell(self, recipe: Recipe, *, times: bool) -> Told:
        steps = sum(getattr(stage, "steps", 0) or 0 for stage in recipe.compress)
        return Told(None, None, 1.0, 32.0 * steps)


def bound(varied: Any) -> Recipe:
    return bind_recipe({"model": "m", **varied})


BENCH: Any = Passes()
STARTS = [bound(recipe_of("cpu-int8", {"precision": "static"}, [{"stage": "distill.soft", "steps": 1000}]))]


def test_trials_are_made_with_more_effort_where_there_is_more_time_or_more_at_once() -> None:
    short, long = (effort_share(BENCH, STARTS, seconds, 5.0, 0.005) for seconds in (900.0, 1800.0))
    assert SHARES[0] < short < long < SHARES[1]
    assert short < effort_share(BENCH, STARTS, 900.0, 5.0, 0.005, 2)
    assert effort_share(BENCH, STARTS, 1e6, 5.0, 0.005) == SHARES[1]
    assert effort_share(BENCH, STARTS, 1.0, 5.0, 5.0) == SHARES[0]


def test_what_trials_took_tells_by_how_much_estimates_are_off_within_reason() -> None:
    assert off_by([]) == 1.0
    assert off_by([(20.0, 10.0), (10.0, 10.0)]) == pytest.approx(1.5)
    assert off_by([(1000.0, 1.0)]) == FACTORS[1]
    assert off_by([(1.0, 1000.0)]) == FACTORS[0]


def test_finalists_that_are_made_together_take_as_long_as_the_longest_of_them() -> None:
    one = seconds_in_full([1000.0, 1000.0], 0.01, (), 5.0)
    assert one == pytest.approx(40.0)
    assert seconds_in_full([1000.0, 1000.0], 0.01, (), 5.0, 2) == pytest.approx(20.0)
    assert seconds_in_full([2000.0, 100.0], 0.01, (), 5.0, 2) == pytest.approx(30.0)


class Known(SimpleNamespace):
    trials: tuple[Trial, ...] = ()


def reserve(trials: Sequence[Trial], keep: int, whole: float) -> Reserve:
    study: Any = Known(trials=tuple(trials))
    pace = Pace(5.0, 5.0, 0.005, 0.005)
    return Reserve(BENCH, study, Goal(speedup=1.0), ("cpu-int8",), keep, bound, 0.1, pace, whole)


def test_more_time_is_kept_once_fewer_finalists_can_be_made_at_once() -> None:
    slots = [2]
    kept = reserve([trial(0, 0.03, start="balanced"), trial(1, 0.01)], 1, 1e9)
    kept.pace = replace(kept.pace, at_once=lambda: slots[0])
    both = kept.seconds()
    slots[0] = 1
    assert kept.seconds() > both


def test_time_is_kept_for_the_best_and_its_rival_and_for_more_only_where_it_fits() -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02, ms=0.9), trial(3, 0.04, ms=0.8)]
    few, many = reserve(trials, 1, 1e9).seconds(), reserve(trials, 4, 1e9).seconds()
    assert 0 < few < many
    assert reserve(trials, 4, 200.0).seconds() == pytest.approx(max(few, 100.0))
    assert reserve([], 1, 100.0).seconds() == 0
    assert reserve(trials, 1, 10.0).seconds() == pytest.approx(MOST * 10.0), "there is always time for trials"
    slow = [replace(t, seconds=5 * t.seconds) for t in trials]
    assert reserve(slow, 1, 1e9).seconds() > few, "on a busy machine finalists take longer, too"


class Timed(Finals):
    """Finals whose packages take a minute each; the clock stands in between."""

    def __init__(self, time_left: float) -> None:
        folder: Any = None
        super().__init__(BENCH, Goal(speedup=1.0), folder, bound, SILENT)
        self.time_left = time_left

    def make(self, trials: Sequence[Trial]) -> dict[int, Finalist]:
        self.time_left -= 60.0 * len(trials)
        return {t.number: Finalist(t, "cpu-int8", "PASS", 0, figures=t.figures) for t in trials}


def test_no_more_is_made_in_full_than_fits_but_the_best_and_its_rival_always_are() -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02, ms=0.9), trial(3, 0.04, ms=0.8)]
    made = {}
    for time in (0.0, 200.0, 1000.0):
        finals = Timed(time)
        made[time] = [f.trial.number for f in finals.make_all(trials, ("cpu-int8",), 4, lambda f=finals: f.time_left)]  # type: ignore[misc]
    assert set(made[0.0]) == {0, 1}
    assert len(made[200.0]) == 3
    assert set(made[1000.0]) == {0, 1, 2, 3}
    assert made[1000.0][0] == 1, "the best first"


def test_a_search_does_not_end_long_after_its_time_for_what_the_best_is_only_compared_with() -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02, ms=0.9)]
    said: list[str] = []
    made = {}
    for late in (30.0, 90.0):
        finals = Timed(30.0)
        finals.expected, finals.late = (lambda chosen: 60.0 * len(chosen)), late
        finals.progress = Notes(said)
        made[late] = [f.trial.number for f in finals.make_all(trials, ("cpu-int8",), 1, lambda f=finals: f.time_left)]  # type: ignore[misc]
    assert made == {30.0: [1], 90.0: [1, 0]}
    assert len(said) == 1
    assert "the best start was not made in full" in said[0]


@pytest.mark.parametrize("foretold", [600.0, 6.0, 0.0])
def test_what_was_made_in_full_tells_how_far_estimates_are_off(foretold: float) -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02, ms=0.9), trial(3, 0.04, ms=0.8)]
    finals = Timed(250.0)  # for four of a minute each, and no more
    finals.expected = lambda chosen: foretold * len(chosen)
    assert len(finals.make_all(trials, ("cpu-int8",), 4, lambda: finals.time_left)) == 4
    assert finals.time_left == pytest.approx(10.0)


def test_the_start_is_made_beside_the_best_where_that_takes_no_longer() -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01)]
    finals = Timed(10.0)
    finals.expected = lambda chosen: 60.0
    made = finals.make_all(trials, ("cpu-int8",), 1, lambda: finals.time_left)
    assert [f.trial.number for f in made] == [1, 0]


def test_where_the_best_fails_in_full_and_its_rival_was_spared_the_next_best_is_made() -> None:
    class Failing(Timed):
        def make(self, trials: Sequence[Trial]) -> dict[int, Finalist]:
            made = super().make(trials)
            return {n: replace(one, status="FAIL") if n == 1 else one for n, one in made.items()}

    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02, ms=2.0)]
    finals = Failing(30.0)
    finals.expected = lambda chosen: 60.0 * len(chosen)
    made = finals.make_all(trials, ("cpu-int8",), 1, lambda: finals.time_left)
    assert [(f.trial.number, f.status) for f in made] == [(1, "FAIL"), (2, "PASS")]


class Found(Timed):
    """Finals in which some packages come out slower, or better, than their trials."""

    slower: tuple[int, ...] = ()

    def make(self, trials: Sequence[Trial]) -> dict[int, Finalist]:
        made = super().make(trials)
        slow = {
            n: replace(f, speedup=f.speedup / 2) for n, one in made.items() if n in self.slower and (f := one.figures)
        }
        return {n: replace(one, figures=slow.get(n, one.figures)) for n, one in made.items()}


def test_where_the_best_breaks_a_limit_in_full_the_next_that_keeps_it_is_made_and_wins() -> None:
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01, ms=1.2), trial(2, 0.02, ms=1.2)]
    finals = Found(130.0)
    finals.slower = (1,)
    made = finals.make_all(trials, ("cpu-int8",), 1, lambda: finals.time_left)
    assert [f.trial.number for f in made] == [1, 0]
    finals = Found(190.0)
    finals.slower = (1,)
    made = finals.make_all(trials, ("cpu-int8",), 1, lambda: finals.time_left)
    assert {f.trial.number for f in made} == {0, 1, 2}
    decided = decide(made, trials, finals.goal)
    assert decided.winner is not None
    assert decided.winner.trial.number == 2
    assert finals.goal.missed(trials[1].figures or WORST) == 0, "by its trial it would have won"


def test_time_that_is_left_goes_to_the_next_best_and_without_limits_to_nothing() -> None:
    trials = [trial(0, 0.03, start="balanced"), *(trial(n, 0.01 * n, ms=1.0) for n in range(1, 9))]
    made = {}
    for seconds in (130.0, 250.0, 1e6):
        finals = Timed(seconds)
        made[seconds] = [
            f.trial.number for f in finals.make_all(trials, ("cpu-int8",), 1, lambda f=finals: f.time_left)
        ]  # type: ignore[misc]
    assert made[130.0] == [1, 0]
    assert made[250.0] == [1, 0, 2, 3]
    assert made[1e6][:4] == [1, 0, 2, 3]
    assert len(made[1e6]) <= 2 + ROUNDS + FURTHER, "many looks at the text are not worth it"
    finals = Timed(1e6)
    finals.goal = Goal()
    assert len(finals.make_all(trials, ("cpu-int8",), 1, lambda: finals.time_left)) == 2


def test_fewer_packages_may_be_kept_than_there_are_targets() -> None:
    """The best of each target is made in full all the same, and the best comes first."""
    trials = [trial(0, 0.03, start="balanced"), trial(1, 0.01), trial(2, 0.02)]
    trials[2] = replace(trials[2], recipe={**trials[2].recipe, "targets": ["tflite"]})
    made = Timed(1000.0).make_all(trials, ("cpu-int8", "tflite"), 1, lambda: 1000.0)
    assert [f.trial.number for f in made] == [1, 0, 2]


def test_what_an_interrupted_search_has_made_is_taken_unless_the_text_that_judged_it_was_written_since(
    tmp_path: Path,
) -> None:
    text, report = tmp_path / "dev.tsv", tmp_path / "report.json"
    recipe = replace(STARTS[0], evaluation=text)
    assert whole.finished(recipe, tmp_path) is None
    text.write_text("sentence\tlabel\nfine\t1\n", encoding="utf-8")
    save_recipe(recipe, tmp_path / "recipe.toml")
    report.write_text('{"targets": [{"status": "PASS"}]}', encoding="utf-8")
    os.utime(report, (2000.0, 2000.0))
    os.utime(text, (1000.0, 1000.0))
    assert whole.finished(recipe, tmp_path) == {"status": "PASS"}
    assert whole.finished(bound(recipe_of("cpu-int8", {"precision": "dynamic"}, ())), tmp_path) is None
    os.utime(text, (3000.0, 3000.0))
    assert whole.finished(recipe, tmp_path) is None


class Exports:
    """Stands for exporting: it tells in how many threads, and what is wrong."""

    def __init__(self, wrong: Exception | None = None) -> None:
        self.wrong = wrong
        self.threads: list[int | None] = []

    def __call__(
        self, recipe: Recipe, out: Path, *, force: bool, progress: Any, resolved: Resolved, cache: Any
    ) -> SimpleNamespace:
        self.threads.append(resolved.threads)
        if self.wrong is not None:
            raise self.wrong
        return SimpleNamespace(targets=[SimpleNamespace(status="PASS", exit_code=0, error="", folder="", size_bytes=1)])


class Starved:
    """Processes that have no room for a package."""

    slots = 2
    stopped = False

    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin(self, number: int, work: Work) -> None:
        self.begun.append(number)

    def ended(self) -> Done:
        return Done(self.begun.pop(), ResourceLimit("memory ran out"))

    def stop(self) -> None:
        self.stopped = True


def finals_of(folder: Path, maker: Any) -> Finals:
    bench: Any = SimpleNamespace(threads=4, measured={}, cache=None)
    return Finals(bench, Goal(speedup=1.0), SearchFolder(folder), bound, SILENT, maker)


@pytest.mark.parametrize(("maker", "threads"), [(None, 4), (Starved(), 1)])
def test_a_finalist_that_is_made_alone_has_as_many_threads_as_one_among_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: Any, threads: int
) -> None:
    monkeypatch.setattr(whole, "run_recipe", exports := Exports())
    finals_of(tmp_path, maker).make([trial(1, 0.01)])
    assert exports.threads == [threads]


def test_a_finalist_for_which_processes_have_no_room_is_made_alone_and_then_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "run_recipe", exports := Exports())
    maker = Starved()
    made = finals_of(tmp_path, maker).make([trial(1, 0.01), trial(2, 0.02)])
    assert [made[n].status for n in (1, 2)] == ["PASS", "PASS"]
    assert exports.threads == [1, 1]
    assert maker.stopped
    monkeypatch.setattr(whole, "run_recipe", Exports(ResourceLimit("memory ran out")))
    with pytest.raises(ResourceLimit, match="memory ran out"):
        finals_of(tmp_path, Starved()).make([trial(1, 0.01), trial(2, 0.02)])
