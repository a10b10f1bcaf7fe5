"""Where a search starts: the plain packages, and the recipes that are shipped with this tool, as they are and aimed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from converter.binding import searched
from converter.model_folder.samples import shipped_recipes
from converter.recipe import load_recipe_table
from converter.registry import stage_class, target_class
from converter.search.space import Space, recipe_of

PLAIN = "plain"
FAR = 1.3
"""Times the speed of a recipe: beyond it is what it cannot be measured at, whatever its table of times is off by."""


@dataclass(frozen=True)
class Start:
    """A recipe that the search begins with, and never ends below."""

    name: str
    recipe: Mapping[str, Any]


def plain_of(target: str) -> dict[str, Any]:
    """Return the recipe of the unchanged model in the target's default precision."""
    return recipe_of(target, {"precision": next(iter(target_class(target).menu()))}, ())


def starts_of(space: Space, speedup: float | None = None) -> tuple[Start, ...]:
    """Return all starts for each target, equal ones once; `speedup`: also aimed at that over the plain package."""
    made: list[Start] = []
    for target in space.targets:
        mark = f" ({target})" if len(space.targets) > 1 else ""
        wanted = [(n, r) for n, r in _shipped(target) if n == PLAIN or not _leaves_out(space, r)]
        for name, recipe in wanted:
            for label, table in _aimed(name, recipe, speedup):
                if all(table != known.recipe for known in made):
                    made.append(Start(label + mark, table))
    return tuple(made)


def _leaves_out(space: Space, recipe: Mapping[str, Any]) -> bool:
    """Tell whether a recipe needs what the user does not want tried."""
    precisions = [chosen["precision"] for chosen in recipe["quantize"].values()]
    return any(map(space.leaves_out, [*precisions, *(table["stage"] for table in recipe.get("compress", ()))]))


def _shipped(target: str) -> Iterator[tuple[str, dict[str, Any]]]:
    plain = plain_of(target)
    yield PLAIN, plain
    for name, path in shipped_recipes().items():
        table = load_recipe_table(path)
        if "model" in table:
            continue  # that of a sample: it is about its own text
        given = table.get("quantize", {})
        precision = given.get(target, given.get(target.replace("-", "_"), plain["quantize"][target]))
        chosen = {"precision": precision} if isinstance(precision, str) else dict(precision)
        yield name, recipe_of(target, chosen, table.get("compress", ()))


def _aimed(name: str, recipe: Mapping[str, Any], speedup: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a recipe as it is and, where a stage of it has this budget, with the one that is wanted.

    As it is, it is left out where its own budget is far from what is wanted: it would not meet the limits.
    """
    stages = [dict(table) for table in recipe.get("compress", ())]
    budgets = [t for t in stages if "speedup" in t and "speedup" in searched(stage_class(t["stage"]))]
    if speedup is None or speedup <= 1 or not budgets:
        yield name, dict(recipe)
        return
    if budgets[0]["speedup"] * FAR > speedup:
        yield name, dict(recipe)
    budgets[0]["speedup"] = round(speedup, 3)
    yield f"{name} at {speedup:.3g}×", {**recipe, "compress": stages}
