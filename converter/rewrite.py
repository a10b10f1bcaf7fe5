"""The contract of a graph rewrite, for ONNX and TFLite alike, and the one function that runs a list of them.

A rewrite changes a graph in place and leaves its answers as they are. What it relies on and what it promises are part
of it, so that a list in the wrong order, or a rewrite that breaks what a later one needs, fails where it happens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from converter.errors import StageFailed

Graph = TypeVar("Graph")


def nothing(_graph: object) -> str:
    """Ask for nothing, and find nothing wrong."""
    return ""


@dataclass(frozen=True)
class Rewrite(Generic[Graph]):
    """One change of a graph, with its conditions.

    `requires` and `ensures` return what is missing or wrong, in words; empty where all is well.
    """

    name: str
    """What the record calls the number of changes."""
    run: Callable[[Graph], int]
    """Change the graph in place; returns how many places were changed."""
    requires: Callable[[Graph], str] = nothing
    ensures: Callable[[Graph], str] = nothing


def apply_rewrites(
    rewrites: Sequence[Rewrite[Graph]], graph: Graph, sound: Callable[[Graph], str] = nothing
) -> dict[str, int]:
    """Run `rewrites` in order; returns the number of changes of each, by name.

    `sound` holds after every rewrite: what every graph of its kind must be.

    Raises:
        StageFailed: a condition does not hold; names the rewrite, and those that ran before it.

    """
    made: dict[str, int] = {}
    for rewrite in rewrites:
        before = ", ".join(made) or "no other"
        if missing := rewrite.requires(graph):
            raise StageFailed(
                f"the rewrite {rewrite.name} cannot run after {before}: {missing}", where="graph rewrites"
            )
        try:
            made[rewrite.name] = rewrite.run(graph)
        except Exception as error:
            error.add_note(f"in the graph rewrite {rewrite.name}, after {before}")
            raise
        if wrong := rewrite.ensures(graph) or sound(graph):
            raise StageFailed(f"the rewrite {rewrite.name}, run after {before}, left {wrong}", where="graph rewrites")
    return made
