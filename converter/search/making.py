"""Where candidates are made: in this process, one after the other, or somewhere that makes several at a time."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from converter.search.figures import Figures

if TYPE_CHECKING:
    from converter.recipe import Recipe
    from converter.search.workbench import Told


Kind = Literal["glance", "measure", "whole"]
TRIES = 2
"""A trial whose process was lost is made once more."""


class Bench(Protocol):
    """What makes and judges candidates; see `converter.search.workbench`."""

    def foretell(self, recipe: "Recipe", *, times: bool) -> "Told": ...
    def glance(self, recipe: "Recipe", share: float, told: "Told") -> Figures: ...
    def measure(self, recipe: "Recipe", share: float) -> Figures: ...


@dataclass(frozen=True)
class Work:
    """One thing to be made of a candidate: a first look, its package, or its package in full with everything beside."""

    kind: Kind
    recipe: "Recipe"
    """Bound to the text of this machine."""
    varied: Mapping[str, Any]
    """What the search varies of it, as plain values, so that it can travel."""
    share: float
    told: "Told | None" = None
    """What the first look is told of time and size."""
    out: Path | None = None
    """Where a package in full is made."""

    def on(self, bench: Bench) -> Figures:
        """Do it.

        Raises:
            ExportError: a stage or the target refuses or fails.
            RunFailed: the runtime refused a text.

        """
        if self.kind == "glance":
            assert self.told is not None
            return bench.glance(self.recipe, self.share, self.told)
        return bench.measure(self.recipe, self.share)


@dataclass
class Handed:
    """A piece of work that was handed to another process."""

    number: int
    """Of the trial."""
    work: Work
    tries: int = 1


@dataclass(frozen=True)
class Done:
    """How a piece of work ended."""

    number: int
    """Of the trial."""
    found: Figures | Mapping[str, Any] | Exception
    """Figures; of a package in full, what is told of it, see `converter.search.whole`."""
    where: str = ""
    """The machine; empty: this one."""
    tries: int = 1
    seconds: float | None = None
    """That it took, without any waiting; None: nobody knows."""


class Maker(Protocol):
    """Takes work for as many trials as there are `slots`, and tells what has ended, one after the other."""

    @property
    def slots(self) -> int:
        """Trials that it works on at the same time, now."""
        ...

    def begin(self, number: int, work: Work) -> None:
        """Take a piece of work of a trial."""
        ...

    def ended(self) -> Done:
        """Return what ended first, and wait for it if need be."""
        ...


class Here:
    """Makes candidates in this process as soon as they are begun."""

    slots = 1

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._done: deque[Done] = deque()

    def begin(self, number: int, work: Work) -> None:
        found: Figures | Exception
        started = time.perf_counter()
        try:
            found = work.on(self._bench)
        except Exception as error:  # noqa: BLE001 - what becomes of it is the trial's to say
            found = error
        self._done.append(Done(number, found, seconds=time.perf_counter() - started))

    def ended(self) -> Done:
        return self._done.popleft()
