"""Trials in processes of this machine, one for each core that the search may use: each with a bench of its own."""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.watch import available_memory
from converter.errors import ExportError, ResourceLimit, StageFailed
from converter.recipe import recipe_table
from converter.search.making import TRIES, Done, Handed, Here, Work
from converter.search.shared import MOST_BYTES
from converter.search.turns import ASKS, HAS, Turns, end_when_orphaned, standing_alone, wake
from converter.search.whole import made_in_full
from converter.search.worker import Report, Task, report_of
from converter.stage import SILENT

if TYPE_CHECKING:
    from converter.examples import Example
    from converter.reference import Reference
    from converter.search.binding import Binding
    from converter.search.goal import Goal
    from converter.search.workbench import Workbench
    from converter.stage import Progress
    from converter.stage_cache.cache import StageCache

COPIES, BASE_BYTES = 8, 1_500_000_000
"""Memory of one process: copies of the weights (student, gradients, moments, teacher, export), and its libraries."""
MEMORY_SHARE = 0.7
"""Of what is free, for all processes together."""
SECONDS_TO_CLOSE = 5.0
BEGUN = "begun"
"""What a process sends first."""


@dataclass(frozen=True)
class Given:
    """What a process is told once. Everything in it is plain; the model it loads itself."""

    base: Mapping[str, Any]
    goal: "Goal"
    learning: Path
    held_back: Path
    examples: "tuple[Example, ...]"
    """The text that is learned from."""
    reference: "Reference"
    """The source's answers to the tuning text: it is asked once."""
    plain: Mapping[str, Path]
    """Folders of the plain packages, by target."""
    seed: int
    cache: str | None
    """Folder or URL of the cache of stages; empty: the user's own; None: none."""
    cache_bytes: int

    @classmethod
    def of(
        cls,
        binding: "Binding",
        bench: "Workbench",
        plain: Mapping[str, Path],
        *,
        cache: str | None,
        cache_bytes: int,
    ) -> "Given":
        """Describe a search."""
        base = binding.base_of_trials
        texts = (binding.learning, binding.held_back)
        learned = tuple(bench.learning)
        return cls(base, binding.goal, *texts, learned, bench.reference, plain, bench.seed, cache, cache_bytes)

    def prepared(self, work: Path) -> "tuple[Binding, Workbench]":
        """Load the source and open the plain packages."""
        from converter.model_folder.given import load_model
        from converter.recipe import bind_recipe
        from converter.search.binding import Binding
        from converter.search.workbench import Workbench

        recipe = bind_recipe({**self.base, "calibration": str(self.learning)}, where="search")
        source = load_model(recipe, SILENT)
        bench = Workbench(
            source, self.examples, self.reference, work, seed=self.seed, threads=1, cache=self._opened_cache()
        )
        for target in recipe.targets:
            if target.name in self.plain:
                bench.open_plain(target, self.plain[target.name])
        return Binding(self.base, self.goal, source, self.learning, self.held_back), bench

    def _opened_cache(self) -> "StageCache | None":
        from converter.stage_cache.cache import open_cache

        return None if self.cache is None else open_cache(self.cache or None, limit=self.cache_bytes)


def serve(work: Path, asked: "connection.Connection") -> None:
    """Take what is `Given`, then make what is asked for, one after the other, until nobody asks any more."""
    from converter.resources import fixed_threads

    end_when_orphaned()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the search itself ends, and this with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is half written is removed on the way out
    with fixed_threads(1), contextlib.suppress(EOFError, BrokenPipeError):
        _serve(work, asked)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends: a signal now would only break what libraries clear up


def _serve(work: Path, asked: "connection.Connection") -> None:
    asked.send(BEGUN)
    given: Given = asked.recv()
    try:
        binding, bench = given.prepared(work)
    except (ExportError, OSError) as error:
        asked.send(str(error))
        return
    bench.alone = partial(standing_alone, asked)
    asked.send(None)
    gc.freeze()  # libraries and the source stay: looking for cycles takes as long as a small package otherwise
    while True:
        asked.send(report_of(asked.recv(), binding, bench))


@dataclass
class _Process:
    """A process of this search; it is handed work before it is ready, and begins when it is."""

    process: Any
    asked: "connection.Connection"
    given: "Given"
    begun: bool = False
    """Whether it has been told: from then on it may be stopped."""
    ready: bool = False
    trial: Handed | None = None
    since: float = 0.0
    """When it began with its trial."""
    stood: float = 0.0
    """Seconds of that in which it stood still for others."""
    last: int = -1
    """The number of the trial that it worked on last."""


@dataclass
class Local:
    """Makes candidates in processes; see `converter.search.making.Maker`. Without any, it makes them itself."""

    bench: "Workbench"
    progress: "Progress"
    processes: list[_Process] = field(default_factory=list)
    waiting: deque[Handed] = field(default_factory=deque)
    done: deque[Done] = field(default_factory=deque)
    turns: Turns = field(default_factory=Turns)

    @property
    def slots(self) -> int:
        return max(1, len(self.processes))

    def begin(self, number: int, work: Work) -> None:
        self.waiting.append(Handed(number, work))
        self._assign()

    def ended(self) -> Done:
        while not self.done:
            if not self.processes:
                return self._own()
            timing = [p for p in self.processes if p is self.turns.timing]
            asked = {p.asked: p for p in timing or self.processes if p.trial is not None or not p.ready}
            # One at a time: what it says may be that the others are to stand still, and then none of them is read.
            self._look(asked[connection.wait(list(asked))[0]])  # type: ignore[index]
            self._assign()
        return self.done.popleft()

    def start(self, given: Given, work: Path, n: int) -> None:
        """Start `n` processes, or as many as the system lets start; they get ready while others of the search go on.

        They are told what is `given` once they have begun: a process that dies before it reads keeps nobody waiting.
        """
        context = multiprocessing.get_context("spawn")
        for i in range(n):
            folder = work / f"process-{i}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                ours, theirs = context.Pipe()
                with theirs:
                    process = context.Process(target=serve, args=(folder, theirs), daemon=True)
                    process.start()
            except OSError as error:
                self.progress.note(f"no more than {i} processes could be started ({error})")
                return
            self.processes.append(_Process(process, ours, given))

    def stop(self) -> None:
        """End all processes."""
        for one in self.processes:
            wake(one)
        for one in self.processes:
            one.asked.close()
            one.process.terminate()
        for one in self.processes:
            one.process.join(SECONDS_TO_CLOSE)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
        self.processes = []

    def _own(self) -> Done:
        """Make what waits in this process: there is no other."""
        trial = self.waiting.popleft()
        if trial.work.out is not None:
            table = made_in_full(trial.work.recipe, trial.work.out, self.bench, self.progress, threads=1)
            return Done(trial.number, table, tries=trial.tries)
        here = Here(self.bench)
        here.begin(trial.number, trial.work)
        return replace(here.ended(), tries=trial.tries)

    def _assign(self) -> None:
        for one in self.processes:
            if self.waiting and one.trial is None:
                # What it has made of a candidate for the first look is at hand there for the package.
                trial = next((t for t in self.waiting if t.number == one.last), self.waiting[0])
                self.waiting.remove(trial)
                one.trial, one.last = trial, trial.number
                if one.ready:
                    self._send(one)

    def _send(self, one: _Process) -> None:
        assert one.trial is not None
        work, bench = one.trial.work, self.bench
        whole = {} if work.out is None else recipe_table(work.recipe)
        known = dict(bench.plain_ms), dict(bench.measured)
        task = Task(work.kind, work.varied, work.share, work.told, *known, work.out, whole)
        one.since, one.stood = time.perf_counter(), 0.0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone: that is seen when it is read
            one.asked.send(task)

    def _look(self, one: _Process) -> None:
        """Take what a process has sent, or what became of it."""
        try:
            found = one.asked.recv()
            if found == BEGUN:
                one.asked.send(one.given)
                one.begun = True
                return
            if found in (ASKS, HAS):
                self.turns.take(found, one, self._stoppable())
                return
        except (EOFError, ConnectionResetError, BrokenPipeError):
            self._lost(one, "most often for want of memory")
            return
        if not isinstance(found, Report):
            if found is not None:
                self._lost(one, str(found))
                return
            one.ready = True
            if one.trial is not None:
                self._send(one)
            return
        trial, one.trial = one.trial, None
        assert trial is not None
        for name, table in found.measured.items():
            self.bench.measured.setdefault(name, table)
        if not found.starved:
            seconds = time.perf_counter() - one.since - one.stood
            outcome = found.figures or found.whole or StageFailed(found.said)
            self.done.append(Done(trial.number, outcome, tries=trial.tries, seconds=seconds))
        elif len(self.processes) > 1:
            self._lost(one, found.said, trial, starved=True)
        else:
            self.done.append(Done(trial.number, ResourceLimit(found.said), tries=trial.tries))

    def _stoppable(self) -> "list[_Process]":
        return [p for p in self.processes if p.begun]

    def _lost(self, one: _Process, why: str, trial: Handed | None = None, *, starved: bool = False) -> None:
        """A process has died or has no room: the others go on, and one of them makes its trial once more."""
        trial = trial or one.trial
        self.processes.remove(one)
        one.asked.close()
        one.process.terminate()
        self.turns.without(one, self._stoppable())
        one.process.join(SECONDS_TO_CLOSE)
        self.progress.note(f"a process of the search was lost ({why}): {len(self.processes)} are left")
        if trial is None:
            return
        if trial.tries < TRIES and self.processes:
            trial.tries += 1
            self.waiting.appendleft(trial)
        elif one.ready:
            # A package in full that only lacked room says nothing against its recipe.
            whole = starved and trial.work.out is not None
            failed = ResourceLimit(why) if whole else StageFailed(f"its process was lost ({why})")
            self.done.append(Done(trial.number, failed, tries=trial.tries))
        else:  # it never began
            self.waiting.appendleft(trial)


def room_for(source_bytes: int, threads: int) -> int:
    """Return how many processes this machine has cores and memory for; 1: none beside this one."""
    free = MEMORY_SHARE * available_memory()
    return max(1, min(threads, _cores(), int(free // (COPIES * source_bytes + BASE_BYTES + MOST_BYTES))))


def _cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def started(given: Given, bench: "Workbench", progress: "Progress", n: int) -> Iterator[Local]:
    """Start processes, and end them again."""
    made = Local(bench, progress)
    try:
        made.start(given, bench.work, n)
        yield made
    finally:
        made.stop()
