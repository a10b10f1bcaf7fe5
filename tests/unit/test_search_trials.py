"""The loop of a search, with planted candidates: what is discarded, stopped, refused, gone on with."""

import json
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import ResourceLimit, StageFailed, UsageError
from converter.recipe import Recipe, bind_recipe
from converter.search.figures import Figures, State
from converter.search.goal import Goal
from converter.search.making import Done, Work
from converter.search.neighbours import neighbour
from converter.search.space import Space, recipe_of
from converter.search.starts import starts_of
from converter.search.study import Study, measured, open_study
from converter.search.trials import IDLE, NEAREST, Trials
from converter.search.workbench import Told
from converter.stage import SILENT
from tests.notes import Notes

optuna = pytest.importorskip("optuna")
SPACE = Space(("cpu-int8",), without=("factorize", "distill.gradual"))
WHO = {"model": {"weights": "a"}, "version": "1", "goal": {}}


class Planted:
    """Candidates whose figures follow from their recipe: pruning makes faster and worse, training better."""

    def __init__(self, *, megabytes: float = 10.0, refused: str = "", gain: bool = True) -> None:
        self.megabytes, self.refused, self.gain = megabytes, refused, gain
        self.made: list[Recipe] = []
        self.glanced = 0

    def foretell(self, recipe: Recipe, *, times: bool) -> Told:
        speedup = self._speedup(recipe)
        return Told(10 / speedup, speedup, self.megabytes, 100.0)

    def glance(self, recipe: Recipe, share: float, told: Told) -> Figures:
        self.glanced += 1
        return self._figures(recipe, share)

    def measure(self, recipe: Recipe, share: float) -> Figures:
        if any(s.name == self.refused for s in recipe.compress):
            raise StageFailed(f"{self.refused} does not know this model")
        self.made.append(recipe)
        return self._figures(recipe, share)

    def _speedup(self, recipe: Recipe) -> float:
        return float(next((s.speedup for s in recipe.compress if getattr(s, "speedup", None)), 1.0))

    def _figures(self, recipe: Recipe, share: float) -> Figures:
        speedup = self._speedup(recipe)
        steps = next((s.steps for s in recipe.compress if s.name.startswith("distill")), 0) or 0
        loss = 0.02 * (speedup - 1) / (1 + steps / 500) if self.gain else 0.0
        rng = np.random.default_rng(zlib.crc32(repr(recipe.compress).encode()))
        losses = loss + rng.normal(0, 0.01, 50)
        loss = float(losses.mean())
        return Figures(loss, 1 - loss, loss, 1 - loss, 10 / speedup, speedup, self.megabytes, tuple(losses), share)


class Ticker:
    def __init__(self) -> None:
        self.said: list[str] = []

    def advance(self, steps: float = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        self.said.append(text)


def bind(varied: Mapping[str, Any]) -> Recipe:
    return bind_recipe({"model": "m", **varied})


def study_in(folder: Path, goal: Goal, identity: Mapping[str, Any] = WHO, sampler: Any = "tpe") -> Study:
    return open_study(folder / "study.sqlite3", SPACE, goal, starts_of(SPACE), identity, seed=0, sampler=sampler)


def test_what_an_earlier_run_has_set_stays(tmp_path: Path) -> None:
    assert study_in(tmp_path, Goal()).setting("share", 0.3) == 0.3
    assert study_in(tmp_path, Goal()).setting("share", 0.1) == 0.3


class Several:
    """Makes several candidates at a time, and ends what began last first; what is lost comes a second time."""

    slots = 3

    def __init__(self, bench: Planted) -> None:
        self.bench = bench
        self.begun: list[tuple[int, Work]] = []
        self.most_at_once = 0

    def begin(self, number: int, work: Work) -> None:
        self.begun.append((number, work))
        self.most_at_once = max(self.most_at_once, len(self.begun))

    def ended(self) -> Done:
        number, work = self.begun.pop()
        try:
            return Done(number, work.on(self.bench), "elsewhere", 1)
        except StageFailed as error:
            return Done(number, error, "elsewhere", 2)


def run(
    study: Study, goal: Goal, bench: Planted, n: int, *, progress: Any = SILENT, maker: Several | None = None
) -> Ticker:
    ticker = Ticker()
    trials = Trials(study, goal, bench, bind, 0.3, progress, most=n, maker=maker)
    trials.run(ticker, lambda: 1e9, lambda: 0.0, 0.0)
    return ticker


def test_the_starts_come_first_and_are_always_made(tmp_path: Path) -> None:
    goal, bench = Goal(max_drop=0.01), Planted()
    study = study_in(tmp_path, goal)
    ticker = run(study, goal, bench, 12)
    names = [t.start for t in study.trials if t.start]
    assert names == [s.name for s in starts_of(SPACE)]
    assert all(t.state is State.MEASURED for t in study.trials if t.start)
    assert [t.number for t in study.trials[: len(names)]] == list(range(len(names)))
    assert "best:" in ticker.said[-1]
    assert "left" in ticker.said[-1]


def test_a_search_ends_no_worse_than_it_starts_and_finds_what_is_there(tmp_path: Path) -> None:
    goal, bench = Goal(speedup=2.0), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 30)
    found = measured(study.trials)
    starts = [found[t.number] for t in study.trials if t.start]
    best = min(found.values(), key=goal.order)
    assert goal.order(best) <= min(map(goal.order, starts))
    assert goal.missed(best) == 0


def test_what_the_forecast_rules_out_is_never_made(tmp_path: Path) -> None:
    goal, bench = Goal(speedup=3.0), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 40)
    searched = [r for r in bench.made if any(r == bind(t.recipe) for t in study.trials if not t.start)]
    discarded = [t for t in study.trials if t.state is State.DISCARDED and "by forecast" in t.said]
    assert discarded
    assert all(bench.foretell(r, times=True).speedup * 1.31 > 3.0 for r in searched)  # type: ignore[operator]


def test_a_space_that_limits_empty_makes_the_nearest_and_says_so(tmp_path: Path) -> None:
    goal, bench, notes = Goal(size_mb=1.0), Planted(megabytes=10.0), Notes()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 1000, progress=notes)
    made = [t for t in study.trials if t.state is State.MEASURED and not t.start]
    assert len(made) == NEAREST
    assert any("nothing that can be made keeps to the limits" in said for said in notes.said)
    assert len(study.trials) <= len(starts_of(SPACE)) + IDLE + NEAREST + 1


def test_a_refused_candidate_says_why_and_the_search_goes_on(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted(refused="share.codebook")
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 30)
    refused = [t for t in study.trials if t.state is State.REFUSED]
    assert refused
    assert any("does not know this model" in t.said for t in refused)
    assert len(study.trials) == 30
    assert measured(study.trials)


def test_running_out_of_memory_is_no_refusal(tmp_path: Path) -> None:
    class Starved(Planted):
        def measure(self, recipe: Recipe, share: float) -> Figures:
            raise ResourceLimit("memory ran out")

    with pytest.raises(ResourceLimit):
        run(study_in(tmp_path, Goal()), Goal(), Starved(), 5)


def test_what_falls_behind_at_the_first_look_is_not_made(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 90)
    behind = [t for t in study.trials if t.state is State.BEHIND]
    assert bench.glanced > 0
    assert behind
    assert all("others are better" in t.said for t in behind)
    assert not {json.dumps(t.recipe, sort_keys=True) for t in behind} & {
        json.dumps(t.recipe, sort_keys=True) for t in study.trials if t.state is State.MEASURED
    }


def test_where_there_are_limits_what_is_behind_half_of_the_others_is_not_made(tmp_path: Path) -> None:
    goal, bench = Goal(speedup=2.0), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 120)
    behind = [t for t in study.trials if t.state is State.BEHIND]
    assert behind
    made = [t.figures for t in study.trials if t.state is State.MEASURED and not t.start and t.figures]
    stopped = [t.figures for t in behind if t.figures]
    assert np.mean([goal.missed(f) for f in stopped]) >= np.mean([goal.missed(f) for f in made])
    assert min(map(goal.order, made)) < min(map(goal.order, stopped))


def test_a_certain_recipe_waits_for_the_starts_before_it_and_none_of_them_is_lost(tmp_path: Path) -> None:
    study, starts = study_in(tmp_path, Goal()), starts_of(SPACE)
    assert len(starts) >= 3
    asked = [study.ask()]
    wanted = neighbour(SPACE, starts[1].recipe, np.random.default_rng(0))
    recipe = SPACE.propose(optuna.trial.FixedTrial(wanted))
    asked.append(study.ask_for(recipe))
    asked += [study.ask() for _ in range(len(starts) - 1)]
    assert [a.start for a in asked] == [*(s.name for s in starts), ""]
    assert [a.recipe for a in asked] == [*(s.recipe for s in starts), recipe]


def test_a_start_that_is_slower_than_it_was_aimed_to_be_is_aimed_once_more(tmp_path: Path) -> None:
    class Slower(Planted):
        def _speedup(self, recipe: Recipe) -> float:
            return max(1.0, 0.8 * super()._speedup(recipe))

    goal, bench = Goal(speedup=2.0), Slower()
    study = open_study(tmp_path / "study.sqlite3", SPACE, goal, starts_of(SPACE, 2.0), WHO, seed=0)
    run(study, goal, bench, len(starts_of(SPACE, 2.0)) + 4)
    found = measured(study.trials)
    starts = [found[t.number].speedup for t in study.trials if t.start and t.number in found]
    assert max(starts) == pytest.approx(1.6)
    again = [t for t in study.trials if not t.start and t.figures]
    assert any(t.figures and 2.0 <= t.figures.speedup < 2.1 for t in again)


def test_an_interrupted_search_goes_on_with_what_it_knows(tmp_path: Path) -> None:
    class Interrupted(Planted):
        def measure(self, recipe: Recipe, share: float) -> Figures:
            if len(self.made) == 2:
                raise KeyboardInterrupt
            return super().measure(recipe, share)

    goal = Goal(max_drop=0.01)
    with pytest.raises(KeyboardInterrupt):
        run(study_in(tmp_path, goal), goal, Interrupted(), 20)
    study, bench = study_in(tmp_path, goal), Planted()
    assert len(study.trials) == 2
    run(study, goal, bench, 8)
    starts = [t.start for t in study.trials if t.start]
    assert sorted(starts) == sorted(s.name for s in starts_of(SPACE)), "the one that was interrupted is made again"
    assert len(study.trials) == 8


@pytest.mark.parametrize(
    ("other", "named"),
    [({"model": {"weights": "b"}}, "model"), ({"version": "2"}, "version"), ({"goal": {"speedup": 2.0}}, "goal")],
)
def test_the_study_of_another_model_version_or_goal_is_refused(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    study_in(tmp_path, Goal())
    with pytest.raises(UsageError, match=f"of another {named}") as refused:
        study_in(tmp_path, Goal(), {**WHO, **other})
    assert "--force" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\x00" + b"\x00" * 100])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.sqlite3").write_bytes(content)
    with pytest.raises(UsageError, match="not the file of a study"):
        study_in(tmp_path, Goal())


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_other_samplers_search_the_same_space(tmp_path: Path, sampler: str) -> None:
    goal = Goal(size_mb=20.0)
    study = study_in(tmp_path, goal, sampler=sampler)
    run(study, goal, Planted(), 15)
    assert len(study.trials) == 15


def test_after_the_first_no_trial_begins_that_does_not_fit_into_the_time(tmp_path: Path) -> None:
    study, goal, bench = study_in(tmp_path, Goal()), Goal(), Planted()
    end = time.monotonic() + 1000
    Trials(study, goal, bench, bind, 0.3, SILENT).run(Ticker(), lambda: end - time.monotonic(), lambda: 1100.0, 0.0)
    assert [t.start for t in study.trials] == ["plain"]


def test_a_recipe_is_never_made_twice(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 30)
    made = [json.dumps(t.recipe, sort_keys=True) for t in study.trials if t.state is State.MEASURED]
    assert len(made) == len(set(made))
    known: Callable[[Any], bool] = lambda t: "the same as" in t.said  # noqa: E731
    assert all(t.figures for t in study.trials if known(t))


def test_what_was_refused_is_not_made_again(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted(refused="share.codebook")
    study = study_in(tmp_path, goal)
    trials = Trials(study, goal, bench, bind, 0.3, SILENT, most=len(starts_of(SPACE)) + 2)
    trials.aims += [recipe_of("cpu-int8", {"precision": "static"}, [{"stage": "share.codebook"}])] * 2
    trials.run(Ticker(), lambda: 1e9, lambda: 0.0, 0.0)
    first, second = (t for t in study.trials if not t.start)
    assert first.state is second.state is State.REFUSED
    assert second.said == f"the same as {first.name}"
    assert bench.glanced == 1


def recipes(study: Study) -> list[str]:
    return [json.dumps(t.recipe, sort_keys=True) for t in study.trials]


def test_several_at_once_try_what_one_after_the_other_tries_where_proposals_do_not_learn(tmp_path: Path) -> None:
    goal, studies = Goal(size_mb=20.0), []
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
        studies.append(study_in(tmp_path / name, goal, sampler="random"))
    run(studies[0], goal, Planted(), 25)
    maker = Several(bench := Planted())
    run(studies[1], goal, bench, 25, maker=maker)
    assert maker.most_at_once == 3
    assert recipes(studies[0]) == recipes(studies[1])
    assert [t.number for t in studies[1].trials] == list(range(25))
    looked = {t.number: t.figures for t in studies[0].trials if t.state is State.MEASURED}
    both = [t for t in studies[1].trials if t.state is State.MEASURED and t.number in looked]
    assert all(t.figures == looked[t.number] for t in both)
    assert {t.where for t in both} == {"elsewhere"}


def test_another_seed_proposes_others(tmp_path: Path) -> None:
    """The twin: equal sets of trials are no accident."""
    goal, found = Goal(size_mb=20.0), []
    for seed in (0, 1):
        file = tmp_path / f"{seed}.sqlite3"
        study = open_study(file, SPACE, goal, starts_of(SPACE), WHO, seed=seed, sampler="random")
        run(study, goal, Planted(), 25, maker=Several(Planted()))
        found.append(recipes(study))
    assert found[0] != found[1]


def test_a_recipe_that_is_being_made_is_not_begun_again(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted()
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 40, maker=Several(bench))
    made = [json.dumps(t.recipe, sort_keys=True) for t in study.trials if t.state is State.MEASURED]
    assert len(made) == len(set(made))
    assert len(study.trials) == 40


def test_a_refusal_elsewhere_is_told_with_its_machine(tmp_path: Path) -> None:
    goal, bench = Goal(), Planted(refused="share.codebook")
    study = study_in(tmp_path, goal)
    run(study, goal, bench, 30, maker=Several(bench))
    refused = [t for t in study.trials if t.state is State.REFUSED]
    assert refused
    assert all("does not know this model" in t.said and t.tries == 2 and t.where for t in refused)
