"""What a search is made of: the goal, the space, the starts, the split of the text, and how honest the winner is."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from converter.binding import among, bind, option, searched, span, with_effort
from converter.data.files import read_examples
from converter.data.split import split_text
from converter.errors import DataError, UsageError
from converter.recipe import bind_recipe
from converter.registry import task_class
from converter.search.figures import Figures, State, Trial, trial_of
from converter.search.finalists import Finalist, choose, decide, recovered
from converter.search.goal import Goal, front, hypervolume
from converter.search.honesty import expected_optimism, gain_of
from converter.search.space import NONE, Space, described, recipe_of
from converter.search.starts import plain_of, starts_of


def figures(loss: float, ms: float = 1.0, mb: float = 1.0, losses: tuple[float, ...] = ()) -> Figures:
    return Figures(loss, 1 - loss, loss, 1 - loss, ms, 2.0 / ms, mb, losses)


# --- options ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    steps: int | None = option(None, "steps", low=1, search=span(10, 1000, log=True), effort=20)
    kind: Literal["a", "b", "c"] = option("a", "kind", search=among("a", "b"))
    other: float = option(0.5, "other")


def test_an_option_declares_what_a_search_tries_beside_its_type() -> None:
    found = searched(Options)
    assert set(found) == {"steps", "kind"}
    assert found["kind"].choices == ("a", "b")
    assert (found["steps"].low, found["steps"].high, found["steps"].log) == (10, 1000, True)


def test_less_effort_is_a_share_of_what_takes_time_but_never_below_its_least() -> None:
    assert with_effort(Options(steps=1000), 0.1) == Options(steps=100)
    assert with_effort(Options(steps=100), 0.1) == Options(steps=20)
    assert with_effort(Options(steps=5), 0.1) == Options(steps=5)
    assert with_effort(Options(), 0.1) == Options()


def test_every_range_lies_within_what_its_option_takes() -> None:
    from converter.registry import stage_class, stage_names

    for name in stage_names():
        cls = stage_class(name)
        ends = {one: what.choices or (what.low, what.high) for one, what in searched(cls).items()}
        if cls.place is not None:
            for end in (0, -1):  # together, since some options need others
                bind(cls, {one: values[end] for one, values in ends.items()}, name)


# --- space ------------------------------------------------------------------------------------------------------


def test_the_space_is_what_the_stages_declare_and_nothing_twice_at_one_place() -> None:
    space = Space(("cpu-int8", "tflite"))
    stages = [name for names in space.places.values() for name in names]
    assert "prune.structured" in stages
    assert "distill.soft" in stages
    assert len(stages) == len(set(stages))
    assert "prune.threshold" not in stages, "zeros make nothing faster or smaller"
    assert space.precisions("cpu-int8")[0] == "static"
    assert "mixed" in space.precisions("tflite")


def test_what_is_left_out_is_not_tried_and_an_unknown_name_is_refused_with_the_nearest() -> None:
    space = Space(("cpu-int8",), without=("prune", "distill.gradual", "dynamic"))
    stages = [name for names in space.places.values() for name in names]
    assert not any(name.startswith("prune.") for name in stages)
    assert "distill.gradual" not in stages
    assert "distill.soft" in stages
    assert space.precisions("cpu-int8") == ("static",)
    with pytest.raises(UsageError, match="no search tries 'prun'"):
        Space(("cpu-int8",), without=("prun",))
    with pytest.raises(UsageError, match="nothing is left to search"):
        Space(("cpu-int8",), without=("trim", "prune", "share", "factorize", "distill", "adapt", "dynamic"))


def test_a_recipe_comes_back_from_the_numbers_that_spell_it() -> None:
    optuna = pytest.importorskip("optuna")
    space = Space(("cpu-int8", "tflite"))
    compress = [
        {"stage": "prune.structured", "speedup": 2.0},
        {"stage": "distill.soft", "steps": 400, "learning_rate": 3e-4, "augment": 1},
    ]
    recipe = recipe_of("cpu-int8", {"precision": "dynamic"}, compress)
    fixed = optuna.trial.FixedTrial(space.numbers_of(recipe))
    assert space.propose(fixed) == recipe
    assert bind_recipe({"model": "m", **recipe}).compress[0].speedup == 2.0  # type: ignore[attr-defined]


def test_a_number_outside_the_space_is_taken_to_the_nearest_in_it() -> None:
    space = Space(("cpu-int8",))
    recipe = recipe_of("cpu-int8", {"precision": "static"}, [{"stage": "prune.structured", "speedup": 99.0}])
    numbers = space.numbers_of(recipe)
    assert numbers["prune.structured.speedup"] == 8.0
    assert numbers["place 1"] == NONE


def test_another_space_has_another_digest() -> None:
    assert Space(("cpu-int8",)).digest == Space(("cpu-int8",)).digest
    assert Space(("cpu-int8",)).digest != Space(("cpu-int8",), without=("trim",)).digest


# --- starts -----------------------------------------------------------------------------------------------------


def test_a_search_starts_from_the_plain_packages_and_the_shipped_recipes() -> None:
    names = [start.name for start in starts_of(Space(("cpu-int8",)))]
    assert names[0] == "plain"
    assert {"balanced", "tiny"} <= set(names)
    assert "entities" not in names, "a sample's own recipe is about its own text"
    both = [start.name for start in starts_of(Space(("cpu-int8", "tflite")))]
    assert "plain (tflite)" in both


def test_a_shipped_recipe_that_needs_what_is_left_out_is_no_start() -> None:
    assert [start.name for start in starts_of(Space(("cpu-int8",), without=("distill",)))] == ["plain"]


def test_starts_with_a_budget_are_also_aimed_at_what_is_wanted() -> None:
    starts = {start.name: start.recipe for start in starts_of(Space(("cpu-int8",)), 1.9)}
    assert starts["balanced"]["compress"][0]["speedup"] == 1.5
    assert starts["balanced at 1.9×"]["compress"][0]["speedup"] == 1.9


def test_a_start_whose_own_budget_is_far_from_what_is_wanted_is_made_aimed_alone() -> None:
    names = {start.name for start in starts_of(Space(("cpu-int8",)), 3.0)}
    assert {"plain", "balanced at 3×", "tiny at 3×"} <= names
    assert not names & {"balanced", "tiny"}


# --- goal -------------------------------------------------------------------------------------------------------


def test_what_has_no_limit_is_minimized_and_all_of_it_without_limits() -> None:
    assert Goal().minimized == ("loss", "milliseconds", "megabytes")
    assert Goal(max_drop=0.01).minimized == ("milliseconds", "megabytes")
    assert Goal(speedup=2.0).minimized == ("loss", "megabytes")
    assert Goal(max_drop=0.01, latency_ms=1.0, size_mb=1.0).minimized == ("loss",)


def test_limits_come_before_what_is_minimized() -> None:
    goal = Goal(latency_ms=1.0)
    slow, fast = figures(0.0, ms=2.0), figures(0.05, ms=0.9)
    assert goal.order(fast) < goal.order(slow)
    assert goal.missed(fast) == 0
    assert goal.missed(slow) == pytest.approx(1.0)
    assert goal.said(slow) == ("a text takes 2 ms, at most 1.0 ms are wanted (2.00 times as much)",)


def test_what_is_exactly_at_its_limit_keeps_it_whatever_rounding_makes_of_it() -> None:
    goal = Goal(max_drop=0.01, min_agreement=0.93, latency_ms=1.0, size_mb=1.0, speedup=2.0)
    drop, agreement = 0.91 - 0.90, 1 - 0.07
    assert drop > 0.01
    assert agreement < 0.93
    at = replace(figures(drop), agreement=agreement)
    assert goal.missed(at) == 0
    assert goal.said(at) == ()
    beyond = replace(at, drop=drop + 1e-4)
    assert goal.missed(beyond) > 0
    assert len(goal.said(beyond)) == 1


@pytest.mark.parametrize("wrong", [{"latency_ms": 0.0}, {"speedup": -1.0}, {"min_agreement": 1.5}])
def test_a_limit_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Goal(**wrong)


def test_the_front_is_what_no_other_beats() -> None:
    found = {0: figures(0.0, 3.0), 1: figures(0.01, 2.0), 2: figures(0.02, 2.5), 3: figures(0.05, 1.0)}
    assert front(found) == (3, 1, 0)


def test_the_hypervolume_of_boxes_is_their_union() -> None:
    assert hypervolume([(0.5, 0.5)], (1.0, 1.0)) == pytest.approx(0.25)
    assert hypervolume([(0.25, 0.75), (0.75, 0.25)], (1.0, 1.0)) == pytest.approx(0.1875 * 2 - 0.0625)
    assert hypervolume([(0.0, 0.0, 0.5), (0.5, 0.5, 0.0)], (1.0, 1.0, 1.0)) == pytest.approx(0.5 + 0.125)
    assert hypervolume([(2.0, 2.0)], (1.0, 1.0)) == 0


# --- honesty ----------------------------------------------------------------------------------------------------


def noise(seed: int, n: int = 400) -> tuple[float, ...]:
    """Return losses by text of a candidate that is exactly as good as the source: right and wrong even out."""
    rng = np.random.default_rng(seed)
    return tuple(float(x) for x in rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.9, 0.05]))


def measured_trial(number: int, losses: tuple[float, ...], start: str = "", ms: float = 1.0) -> Trial:
    recipe = recipe_of("cpu-int8", {"precision": "static"}, [{"stage": "distill.soft", "steps": 100 + number}])
    found = figures(float(np.mean(losses)), ms=ms, losses=losses)
    return Trial(number, recipe, State.MEASURED, start, found)


def in_full(trial: Trial) -> Finalist:
    return Finalist(trial, "cpu-int8", "PASS", 0, figures=trial.figures)


def test_the_expected_optimism_is_what_the_best_of_many_equals_seems_to_gain() -> None:
    candidates = [figures(float(np.mean(noise(i))), losses=noise(i)) for i in range(40)]
    best = min(c.loss for c in candidates)
    assert best < 0
    assert expected_optimism(candidates) == pytest.approx(-best, rel=0.6), "all of the lead is luck"
    assert expected_optimism(candidates[:1]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_no_gain_is_reported_from_a_space_of_noise(seed: int) -> None:
    trials = [measured_trial(0, noise(1000 * seed + 1), "plain")]
    trials += [measured_trial(i, noise(1000 * seed + 1 + i)) for i in range(1, 40)]
    goal = Goal(speedup=1.5)
    chosen = choose(trials, goal, ("cpu-int8",), 1)
    assert any(t.start for t in chosen), "what the search started from is always made in full"
    made = decide([in_full(t) for t in chosen], trials, goal)
    assert made.winner is not None
    assert made.gain is None or not made.gain.sure


def test_a_gain_that_is_there_is_reported() -> None:
    trials = [measured_trial(0, tuple(x + (0.2 if i % 5 == 0 else 0) for i, x in enumerate(noise(7))), "plain")]
    trials += [measured_trial(i, noise(7 + i)) for i in range(1, 10)]
    goal = Goal(speedup=1.5)
    made = decide([in_full(t) for t in choose(trials, goal, ("cpu-int8",), 1)], trials, goal)
    assert made.winner is not None
    assert not made.winner.trial.start
    assert made.gain is not None
    assert made.gain.sure
    assert made.gain.over == "plain"


def test_time_that_differs_by_less_than_timing_can_tell_is_no_gain() -> None:
    assert not gain_of(figures(0, ms=0.99), figures(0, ms=1.0), "plain", "milliseconds").sure
    assert gain_of(figures(0, ms=0.5), figures(0, ms=1.0), "plain", "milliseconds").sure


def test_what_is_made_in_full_along_a_front_is_spread_over_it() -> None:
    trials = [measured_trial(i, (0.01 * (10 - i), 0.01 * (10 - i)), ms=1.0 + i) for i in range(10)]
    trials[9] = replace(trials[9], start="plain")
    chosen = [t.number for t in choose(trials, Goal(), ("cpu-int8",), 3)]
    assert chosen[0] == 9, "the least loss"
    assert {0, 4} <= set(chosen)


def test_limits_are_held_to_what_candidates_recover_with_all_training() -> None:
    fast, slow = measured_trial(1, (0.03, 0.03), ms=1.0), measured_trial(2, (0.02, 0.02), ms=2.0)
    plain = replace(measured_trial(0, (0.0, 0.0), "plain", ms=3.0), recipe=plain_of("cpu-int8"))
    goal, trials = Goal(max_drop=0.02), [plain, fast, slow]
    assert choose(trials, goal, ("cpu-int8",), 1)[0].number == 2
    whole = replace(in_full(slow), figures=figures(0.005, ms=2.0))
    assert choose(recovered(trials, [whole]), goal, ("cpu-int8",), 1)[0].number == 1
    assert recovered(trials, [in_full(plain)]) == tuple(trials), "what is not trained does not recover"


def test_a_package_that_failed_its_gate_wins_only_where_all_did() -> None:
    trials = [measured_trial(0, noise(1), "plain", ms=2.0), measured_trial(1, noise(2), ms=1.0)]
    goal = Goal(max_drop=0.5)
    rejected = replace(in_full(trials[1]), status="FAIL", exit_code=3)
    made = decide([rejected, in_full(trials[0])], trials, goal)
    assert made.winner is not None
    assert made.winner.trial.name == "plain"
    assert decide([rejected], trials, goal).winner is rejected


def test_a_trial_comes_back_from_what_is_kept_of_it() -> None:
    trial = measured_trial(3, (0.0, 1.0, -1.0))
    assert trial_of(trial.table()) == trial
    refused = Trial(4, plain_of("tflite"), State.REFUSED, said="no")
    assert trial_of(refused.table()) == refused
    assert described(trial.recipe) == "distill.soft:steps=103 + cpu-int8=static"


# --- the split of the text --------------------------------------------------------------------------------------


class _Config:
    id2label = {0: "negative", 1: "positive"}  # noqa: RUF012
    num_labels = 2
    problem_type = None


def task() -> Any:
    return task_class("text-classification")(_Config())


def rows_of(file: Path, n: int = 120) -> Path:
    rng = random.Random(1)
    rows = [f"text number {i} {rng.random():.3f}\t{rng.randint(0, 1)}" for i in range(n)]
    rows += rows[:30]  # the same texts again
    file.write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


def test_a_split_keeps_every_text_on_one_side_and_is_the_same_every_time(tmp_path: Path) -> None:
    from converter.data.survey import DataOptions

    file = rows_of(tmp_path / "all.tsv")
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(split_text(file, task(), DataOptions(), tmp_path / name, share=0.25, most=1000, seed=0))
    assert made[0].digest == made[1].digest
    learning, held = (read_examples(p, task()) for p in (made[0].learning, made[0].held_back))
    assert len(learning) + len(held) == 150
    assert not {e.text for e in learning} & {e.text for e in held}
    assert {(e.text, e.label) for e in (*learning, *held)} == {(e.text, e.label) for e in read_examples(file, task())}
    (tmp_path / "c").mkdir()
    assert (
        split_text(file, task(), DataOptions(), tmp_path / "c", share=0.25, most=1000, seed=1).digest != made[0].digest
    )


def test_too_few_texts_to_learn_from_some_and_choose_by_others_are_refused(tmp_path: Path) -> None:
    from converter.data.survey import DataOptions

    file = tmp_path / "few.txt"
    file.write_text("\n".join(f"text {i}" for i in range(30)), encoding="utf-8")
    with pytest.raises(DataError, match="30 different texts are too few"):
        split_text(file, task(), DataOptions(), tmp_path, share=0.25, most=1000, seed=0)
