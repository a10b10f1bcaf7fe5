"""The time that a search keeps for its finalists."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converter.search.estimates import off_by, passes_of, seconds_in_full
from converter.search.figures import State, Trial
from converter.search.finalists import choose

if TYPE_CHECKING:
    from converter.recipe import Recipe
    from converter.search.goal import Goal
    from converter.search.study import Study
    from converter.search.workbench import Workbench

MOST_RESERVED = 0.5
"""Of the time, for packages along the front beside the best."""
MOST = 0.65
"""Of the time, for the best and what it is compared with: without trials there is nothing to be made in full."""
LATE = 0.1
"""Of the time, by which a search may end later for what the best is compared with."""


@dataclass(frozen=True)
class Pace:
    """How long things take here."""

    first: float
    """Seconds of a trial that nothing compresses, as expected before one was made."""
    making: float
    """Of making a package, without what compresses the model."""
    a_text: float
    """Of a text in a batch, in one thread."""
    in_full: float
    """The same where a finalist is made: in all threads, or in one of each process."""
    at_once: Callable[[], int] = lambda: 1
    """Finalists that are made at the same time: fewer, once a process is lost."""


@dataclass
class Reserve:
    """Expects what finalists will take, and learns from trials by how much it is off."""

    bench: "Workbench"
    study: "Study"
    goal: "Goal"
    targets: Sequence[str]
    keep: int
    """Packages that are wanted."""
    bind: "Callable[[Mapping[str, Any]], Recipe]"
    share: float
    """Of the effort, of trials."""
    pace: Pace
    whole: float
    """Seconds of the search."""
    expected: dict[int, float] = field(default_factory=dict)
    """Seconds that a trial should have taken."""

    def seconds(self) -> float:
        """Return what must be left: for the best and what it is compared with; for more along the front, if it fits."""
        numbers = len(self.targets), max(self.keep, len(self.targets))
        few, more = (self.in_full(choose(self.study.trials, self.goal, self.targets, n)) for n in numbers)
        return max(min(few, MOST * self.whole), min(more, MOST_RESERVED * self.whole))

    def in_full(self, chosen: Sequence[Trial]) -> float:
        """Return the seconds that making these in full is expected to take."""
        passes = [self._passes(trial, 1.0) for trial in chosen]
        pace = self.pace
        return self._off_by() * seconds_in_full(passes, pace.in_full, self.study.trials, pace.making, pace.at_once())

    def _off_by(self) -> float:
        found = []
        for trial in self.study.trials:
            if trial.state is State.MEASURED and trial.recipe.get("compress") and not trial.where:
                if trial.number not in self.expected:
                    a_trial = self.pace.making + self.pace.a_text * self._passes(trial, self.share)
                    self.expected[trial.number] = a_trial
                found.append((trial.seconds, self.expected[trial.number]))
        return off_by(found)

    def _passes(self, trial: Trial, share: float) -> float:
        return passes_of(self.bench, self.bind(trial.recipe), share)
