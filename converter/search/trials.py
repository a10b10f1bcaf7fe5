"""Trials until the time is over, one after the other or several at once: forecast, a first look, then a package."""

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from converter.errors import ResourceLimit
from converter.search.figures import Figures, State, Trial
from converter.search.goal import Goal, beats
from converter.search.making import Bench, Here, Maker, Work
from converter.search.neighbours import aimed
from converter.search.saying import said_of
from converter.search.space import described
from converter.search.study import Asked, Study, measured

if TYPE_CHECKING:
    from converter.recipe import Recipe
    from converter.search.workbench import Told
    from converter.stage import Progress, Ticker

TIME_MARGIN = 0.3
"""A forecast of time may be so much too long before a candidate is discarded: tables are up to 15 % off."""
SIZE_MARGIN = 0.1
IDLE = 40
"""So many proposals in a row that are not worth making: the space has nothing more."""
NEAREST = 2
"""Of candidates that the forecast discards, those nearest to the limits are made where there are no others."""
ETA = 3
"""Of candidates at the first look, one in so many goes on for certain (successive halving, as in Hyperband)."""
LEAST_AT_RUNG = 4
"""So many must have been looked at before one is stopped."""


Steps = Generator[Work, Figures, tuple[State, Figures | None, str]]
"""A trial: it asks for work, is sent what came of it, and returns how it ended."""


@dataclass
class _Running:
    """A trial on its way."""

    asked: Asked
    steps: Steps
    started: float
    where: str = ""
    tries: int = 1
    seconds: float | None = 0.0
    """That its work took, without waiting; None: nobody knows."""


@dataclass
class Trials:
    """The loop, and what it knows beside the study."""

    study: Study
    goal: Goal
    bench: Bench
    bind: "Callable[[Mapping[str, Any]], Recipe]"
    """Makes a recipe of what the search varies, and raises where the model refuses it."""
    share: float
    """Of the effort that candidates are made with: for the first look, which the package goes on from."""
    progress: "Progress"
    most: int | None = None
    """Trials in the study, at most."""
    maker: Maker | None = None
    """Where candidates are made; None: here, by `bench`, one after the other."""
    glances: dict[int, Figures] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    """Of the trials that were made in this run."""
    discarded: list[tuple[float, Asked]] = field(default_factory=list)
    running: dict[int, _Running] = field(default_factory=dict)
    held: list[Asked] = field(default_factory=list)
    """Proposals of a recipe that is being made already: they wait for how it comes out."""
    aims: deque[Mapping[str, Any]] = field(default_factory=deque)
    """Starts that were slower, or faster, than they were aimed to be: aimed as measured, they come after all starts."""
    idle: int = 0
    """Proposals in a row that were not worth making."""

    def run(self, ticker: "Ticker", left: Callable[[], float], reserve: Callable[[], float], first: float) -> None:
        """Try until less time is `left` than one more trial and the finalists (`reserve`) take; one is always made.

        `first` is how long a trial is expected to take before one was made.
        """

        def proposed() -> Asked | None:
            if self.idle >= IDLE or not self._more():
                return None
            any_begun = self.study.trials or self.running
            if any_begun and left() <= reserve() + self._expected(first):
                return None
            return self.study.ask_for(self.aims.popleft()) if self.aims else self.study.ask()

        self._loop(proposed, ticker, left, forced=False)
        met = any(self.goal.missed(f) == 0 for f in measured(self.study.trials).values())
        if self.idle >= IDLE and self.goal.limited and not met:
            self._nearest(ticker, left, reserve, first)

    def _nearest(self, ticker: "Ticker", left: Callable[[], float], reserve: Callable[[], float], first: float) -> None:
        """Make what the forecast has discarded, where the limits leave nothing else."""
        self.progress.note("by forecast, nothing that can be made keeps to the limits: the nearest is made")
        waiting = [asked for _, asked in sorted(self.discarded, key=lambda pair: pair[0])[:NEAREST]]

        def proposed() -> Asked | None:
            if not waiting or left() <= reserve() + self._expected(first):
                return None
            return self.study.ask_for(waiting.pop(0).recipe)

        self._loop(proposed, ticker, left, forced=True)

    def _loop(
        self, proposed: Callable[[], Asked | None], ticker: "Ticker", left: Callable[[], float], *, forced: bool
    ) -> None:
        """Begin what is proposed as soon as there is a place for it, until nothing is and all has ended."""
        maker = self.maker or Here(self.bench)

        def go_on(one: _Running, step: Callable[[], Work]) -> None:
            made = self._after(one, step, maker)
            if made is not None:
                self._show(ticker, made, left())

        def begin(asked: Asked) -> None:
            if any(one.asked.recipe == asked.recipe for one in self.running.values()):
                self.held.append(asked)
                return
            one = _Running(asked, self._steps(asked, forced=forced), time.perf_counter())
            go_on(one, lambda: next(one.steps))

        while True:
            while len(self.running) + len(self.held) < maker.slots and (asked := proposed()) is not None:
                begin(asked)
            if not self.running:
                return
            done = maker.ended()
            one = self.running.pop(done.number)
            one.where, one.tries = done.where or one.where, max(one.tries, done.tries)
            one.seconds = None if one.seconds is None or done.seconds is None else one.seconds + done.seconds
            found = done.found
            go_on(one, lambda o=one, f=found: o.steps.throw(f) if isinstance(f, Exception) else o.steps.send(f))  # type: ignore[misc]
            waiting, self.held = self.held, []
            for asked in waiting:
                begin(asked)

    def _after(self, one: _Running, step: Callable[[], Work], maker: Maker) -> Trial | None:
        """Take one step of a trial; returns the trial where that was its last."""
        try:
            work = step()
        except StopIteration as ended:
            return self._told(one, *ended.value)
        self.running[one.asked.number] = one
        maker.begin(one.asked.number, work)
        return None

    def _told(self, one: _Running, state: State, figures: Figures | None, said: str) -> Trial:
        seconds, asked = one.seconds or time.perf_counter() - one.started, one.asked
        made = Trial(
            asked.number, asked.recipe, state, asked.start, figures, said, seconds, where=one.where, tries=one.tries
        )
        self.study.tell(asked, made)
        worth_it = state in (State.MEASURED, State.BEHIND)
        self.idle = 0 if worth_it else self.idle + 1
        if state is State.MEASURED and asked.start and figures is not None:
            self._aim(asked, figures)
        if worth_it:
            self.seconds.append(seconds)
        return made

    def _aim(self, asked: Asked, figures: Figures) -> None:
        """Have a start made once more with the budget by which it should be as fast as is wanted."""
        wanted = self.goal.wanted_speedup(figures)
        made = aimed(asked.recipe, wanted, figures.speedup) if wanted else None
        if made is not None:
            self.aims.append(made)

    def _more(self) -> bool:
        begun = len(self.study.trials) + len(self.running) + len(self.held)
        return self.most is None or begun < self.most

    def _expected(self, first: float) -> float:
        last = self.seconds[-5:]
        return sum(last) / len(last) if last else first

    def _steps(self, asked: Asked, *, forced: bool) -> Steps:
        """Have a candidate made as far as it is worth it."""
        if (known := self._known(asked)) is not None and not forced:
            state = State.REFUSED if known.state is State.REFUSED else State.DISCARDED
            return state, known.figures, f"the same as {known.name}"
        try:
            recipe = self.bind(asked.recipe)
            told = self.bench.foretell(recipe, times=True)
            must = bool(asked.start) or forced
            if not must and (why := self._hopeless(told, asked)):
                return State.DISCARDED, self._forecast(told), why
            if not must and recipe.compress:
                figures = yield Work("glance", recipe, asked.recipe, self.share, told)
                behind = self._falls_behind(figures)
                self.glances[asked.number] = figures
                if behind:
                    return State.BEHIND, figures, behind
            return State.MEASURED, (yield Work("measure", recipe, asked.recipe, self.share, told)), ""
        except ResourceLimit:
            raise
        except Exception as error:  # noqa: BLE001 - said_of tells what is a bug, and raises what is no candidate's
            return State.REFUSED, None, said_of(error)

    def _known(self, asked: Asked) -> Trial | None:
        """Return the trial that has made the same recipe, as far as it was worth it; a start is always measured."""
        wanted = json.dumps(asked.recipe, sort_keys=True)
        made = (State.MEASURED,) if asked.start else (State.MEASURED, State.BEHIND, State.REFUSED)
        found = (t for t in self.study.trials if t.state in made)
        return next((t for t in found if json.dumps(t.recipe, sort_keys=True) == wanted), None)

    def _hopeless(self, told: "Told", asked: Asked) -> str:
        """Return why a candidate cannot meet the limits, by forecast; empty where it may."""
        excess = self.goal.cost_excess(told.milliseconds, told.speedup, told.megabytes)
        margins = {"latency_ms": TIME_MARGIN, "speedup": TIME_MARGIN, "size_mb": SIZE_MARGIN}
        over = {name: value for name, value in excess.items() if value > margins[name]}
        if not over:
            return ""
        self.discarded.append((sum(over.values()), asked))
        found = {"latency_ms": told.milliseconds, "speedup": told.speedup, "size_mb": told.megabytes}
        return "by forecast: " + ", ".join(
            f"{name} {found[name]:.3g}, wanted {getattr(self.goal, name):g}" for name in over
        )

    def _forecast(self, told: "Told") -> Figures:
        """Return figures for the sampler: it learns where the limits are, and nothing good of a candidate."""
        worst = self.study.worst()
        return replace(
            worst,
            milliseconds=told.milliseconds or worst.milliseconds,
            speedup=told.speedup or worst.speedup,
            megabytes=told.megabytes,
        )

    def _falls_behind(self, found: Figures) -> str:
        """Return why a candidate is stopped at its first look: too many others are better in everything."""
        others = list(self.glances.values())
        better = sum(beats(other, found) for other in others)
        if self.goal.limited:
            return self._behind_half(found, others)
        if len(others) < LEAST_AT_RUNG or better == 0 or better < len(others) / ETA:
            return ""
        return f"{better} of {len(others)} others are better with as much training, no slower and no larger"

    def _behind_half(self, found: Figures, others: list[Figures]) -> str:
        """Return why a candidate is stopped where there are limits: more than half of the others are nearer to them."""
        ahead = sum(self.goal.order(other) < self.goal.order(found) for other in others)
        if len(others) < LEAST_AT_RUNG or 2 * ahead <= len(others):
            return ""
        return f"{ahead} of {len(others)} others are better with as much training, by what the goal asks for"

    def _show(self, ticker: "Ticker", made: Trial, left: float) -> None:
        trials = self.study.trials
        found = measured(trials)
        best = min(found.values(), key=self.goal.order, default=None)
        said = "nothing yet" if best is None else figures_line(best, met=self.goal.missed(best) == 0)
        minutes = f"{max(0, round(left)) // 60}:{max(0, round(left)) % 60:02d}"
        ticker.describe(f"Searching · {len(found)} packages of {len(trials)} trials · best: {said} · {minutes} left")
        if made.state is State.MEASURED and made.figures is not None:
            self.progress.note(f"{made.name}: {figures_line(made.figures)} · {described(made.recipe)}")


def figures_line(found: Figures, *, met: bool = True) -> str:
    """Return figures in a few words."""
    points = round(-100 * found.loss, 2) + 0.0  # no minus before a zero
    kept = f"metric {points:+.2f} points" if found.drop is not None else f"agreement {found.agreement:.4f}"
    line = f"{kept}, {found.milliseconds:.2f} ms ({found.speedup:.2f}×), {found.megabytes:.1f} MB"
    return line if met else f"{line} (limits not met)"
