"""Candidates near good ones: they stay in the space, differ by little, and are aimed as they were measured."""

from typing import Any

import numpy as np
import pytest

from converter.binding import searched
from converter.recipe import bind_recipe
from converter.registry import stage_class
from converter.search.neighbours import SURPLUS, aimed, neighbour
from converter.search.space import NONE, Space, recipe_of
from converter.search.starts import starts_of

SPACE = Space(("cpu-int8",))
RECIPE: dict[str, Any] = starts_of(SPACE, 3.0)[-1].recipe  # type: ignore[assignment]


def places(numbers: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in numbers.items() if k.startswith("place")}


def test_a_neighbour_differs_by_one_choice_or_two_and_all_else_stays() -> None:
    before = SPACE.numbers_of(RECIPE)
    seen = set()
    for seed in range(60):
        made = neighbour(SPACE, RECIPE, np.random.default_rng(seed))
        other = {n for n in places(before) if made[n] != before[n]}
        gone = {n.partition(".")[0] for n in other}
        options = {
            n
            for n, v in before.items()
            if "place" not in n and n in made and made[n] != v and not n.endswith("precision")
        }
        assert len(other) + len(options) <= 2, (gone, options)
        seen |= other | options
    assert len(seen) > 6, "all kinds of choices are made otherwise now and then"


def test_a_neighbour_lies_in_the_space() -> None:
    for seed in range(60):
        made = neighbour(SPACE, RECIPE, np.random.default_rng(seed))
        for label, value in made.items():
            if label.startswith("place"):
                assert value in (NONE, *SPACE.places[int(label.split()[1])])
                continue
            name, _, option = label.rpartition(".")
            if option == "precision":
                assert value in SPACE.precisions("cpu-int8")
                continue
            what = searched(stage_class(name))[option]
            assert value in what.choices if what.choices else what.low <= value <= what.high


def test_a_number_that_a_recipe_leaves_at_its_default_stays_there() -> None:
    recipe = recipe_of("cpu-int8", {"precision": "static"}, [{"stage": "distill.soft", "steps": 300}])
    made = [neighbour(SPACE, recipe, np.random.default_rng(seed)) for seed in range(30)]
    rates = [m["distill.soft.learning_rate"] for m in made if "distill.soft.learning_rate" in m]
    assert rates.count(1.5e-4) > len(rates) / 2


def test_a_recipe_is_aimed_by_what_it_was_measured_at() -> None:
    made = aimed(RECIPE, 3.0, 2.5)
    assert made is not None
    speedups = [t["speedup"] for t in made["compress"] if "speedup" in t]
    assert speedups == [pytest.approx(3.0 * 3.0 / 2.5 * SURPLUS, abs=1e-3)]
    bind_recipe({"model": "m", **made})
    assert aimed(RECIPE, 3.0, 3.0 * SURPLUS) is None, "it is as fast as it should be"
    assert aimed(recipe_of("cpu-int8", {"precision": "static"}, []), 3.0, 1.0) is None, "it has no budget"
