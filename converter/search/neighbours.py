"""Candidates near good ones: a recipe with one or two of its choices made otherwise, or aimed as it was measured."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converter.binding import Searched, searched
from converter.registry import stage_class
from converter.search.space import NONE, Space

if TYPE_CHECKING:
    import numpy as np

SPREAD = 0.25
"""Of a range: how far a number moves, as a standard deviation."""
TWICE = 0.4
"""How often a second choice is made otherwise, too."""
OPTIONS_OFTEN = 3
"""A number of a stage is drawn so many times as often as whether there is such a stage."""
SURPLUS = 1.03
"""Recipes are aimed so much beyond what is wanted: what is met by a hair in one timing is missed in the next."""
WORTH_AIMING = 0.02


def neighbour(space: Space, recipe: Mapping[str, Any], rng: "np.random.Generator") -> dict[str, Any]:
    """Return the sampler's numbers of a recipe like this one; what a new stage needs is left to the sampler."""
    made = _changed(space, _numbers(space, recipe), rng)
    return _changed(space, made, rng) if rng.random() < TWICE else made


def aimed(recipe: Mapping[str, Any], wanted: float, found: float) -> dict[str, Any] | None:
    """Return the recipe with the budget of speed by which it should reach `wanted`; it was `found` so much faster.

    None: it has no such budget, or is as fast as it should be.
    """
    factor = wanted / found * SURPLUS
    stages = [dict(table) for table in recipe.get("compress", ())]
    for table in stages:
        options = searched(stage_class(table["stage"]))
        if "speedup" in table and "speedup" in options:
            if abs(factor - 1) < WORTH_AIMING:
                return None
            table["speedup"] = round(min(2 * options["speedup"].high, max(1.05, table["speedup"] * factor)), 3)
            return {**recipe, "compress": stages}
    return None


def _numbers(space: Space, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a recipe, with those that it leaves at their defaults."""
    made = space.numbers_of(recipe)
    for table in recipe.get("compress", ()):
        cls = stage_class(table["stage"])
        for option, what in searched(cls).items():
            made.setdefault(f"{table['stage']}.{option}", _inside(what, getattr(cls, option, None)))
    return {name: value for name, value in made.items() if value is not None}


def _inside(what: Searched, value: Any) -> Any:
    """Return a default where it is among what is tried."""
    if what.choices:
        return value if value in what.choices else None
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if numeric and what.low <= value <= what.high else None


def _changed(space: Space, numbers: Mapping[str, Any], rng: "np.random.Generator") -> dict[str, Any]:
    """Make one choice otherwise."""
    options = {
        f"{name}.{option}": what
        for place, offered in space.places.items()
        if (name := numbers.get(f"place {place}", NONE)) in offered
        for option, what in searched(stage_class(name)).items()
        if f"{name}.{option}" in numbers
    }
    (target,) = [numbers["target"]] if len(space.targets) > 1 else space.targets
    precision = f"{target}.precision"
    whole = [f"place {place}" for place in space.places]
    whole += [precision] if len(space.precisions(target)) > 1 else []
    drawn = [*whole, *list(options) * OPTIONS_OFTEN]
    label = drawn[int(rng.integers(len(drawn)))]
    if label in options:
        return {**numbers, label: _moved(options[label], numbers[label], rng)}
    if label == precision:
        return {**numbers, label: _other(space.precisions(target), numbers[label], rng)}
    stages = (NONE, *space.places[int(label.split()[1])])
    before = numbers.get(label, NONE)
    kept = {name: value for name, value in numbers.items() if before == NONE or not name.startswith(f"{before}.")}
    return {**kept, label: _other(stages, before, rng)}


def _other(choices: "tuple[Any, ...]", now: Any, rng: "np.random.Generator") -> Any:
    others = [choice for choice in choices if choice != now] or [now]
    return others[int(rng.integers(len(others)))]


def _moved(what: Searched, now: Any, rng: "np.random.Generator") -> Any:
    """Return another value near this one."""
    if what.choices:
        return _other(what.choices, now, rng)
    low, high, at = (math.log(x) for x in (what.low, what.high, now)) if what.log else (what.low, what.high, now)
    moved = min(high, max(low, at + SPREAD * (high - low) * float(rng.normal())))
    value = math.exp(moved) if what.log else moved
    if what.step:
        away = math.copysign(what.step, moved - at)
        value = what.low + what.step * round((value - what.low) / what.step)
        value = value if value != now else now + away
    value = min(what.high, max(what.low, value))
    return round(value) if isinstance(what.low, int) and isinstance(what.high, int) else float(value)
