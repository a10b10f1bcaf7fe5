"""Trials on a Ray cluster that the user has named: one worker for every so many CPUs, each with a bench of its own."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import RuntimeMissing, StageFailed
from converter.fleet.transport import pack
from converter.search.making import TRIES, Done, Handed, Work
from converter.search.worker import Ready, Report, Setup, Task, TrialWorker

if TYPE_CHECKING:
    from converter.search.workbench import Workbench
    from converter.stage import Progress

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_OTHERS = 60.0
"""After the first worker is ready, the others have so long before trials begin; a later one joins."""
SECONDS_TO_COME_BACK = 300.0
"""So long nothing may be ready at all, and so long a trial waits for one worker, while it loads or its node is full."""
SECONDS_TO_CLOSE = 10.0
"""What workers have to remove their files before they are ended."""
HINT = "install plm-export, of this version and with the extras of its targets, on every node"


@dataclass
class _Worker:
    """A process of the cluster."""

    actor: Any
    call: Any = None
    """What it is doing; None: nothing."""
    trial: Handed | None = None
    brought: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    """Empty as long as it is not ready."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    """When it was asked for."""

    @property
    def hoped_for(self) -> bool:
        """Whether it may be ready soon. One that is never given a CPU is not waited for."""
        return not self.host and time.monotonic() - self.since < SECONDS_TO_COME_BACK


class Cluster:
    """Makes candidates on workers; see `converter.search.making.Maker`."""

    def __init__(self, ray: Any, setup: Setup, bench: "Workbench", progress: "Progress") -> None:
        self._ray, self._setup, self._bench, self._progress = ray, setup, bench, progress
        self._workers: list[_Worker] = []
        self._waiting: deque[Handed] = deque()
        self._archives: dict[str, Any] = {}
        self._done: deque[Done] = deque()
        self._said: list[str] = []
        """Why workers were of no use."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the targets that some worker can make."""
        ready = [w for w in self._workers if w.host]
        return tuple(t for t in self._setup.targets if any(t not in w.lacks for w in ready))

    @property
    def slots(self) -> int:
        """Return how many trials are made at once; one at least: there may be none for a while."""
        return max(1, sum(bool(w.host) for w in self._workers))

    def begin(self, number: int, work: Work) -> None:
        self._waiting.append(Handed(number, work))
        self._assign()

    def ended(self) -> Done:
        """Return what ended first.

        Raises:
            RuntimeMissing: all workers are gone.

        """
        deadline = time.monotonic() + SECONDS_TO_COME_BACK
        while not self._done:
            if any(w.host for w in self._workers):
                deadline = time.monotonic() + SECONDS_TO_COME_BACK
            elif not self._workers or time.monotonic() > deadline:
                raise self._useless("all workers of the cluster are gone")
            self._look()
        return self._done.popleft()

    def start(self) -> None:
        """Start a worker for every so many CPUs, and wait until they are ready.

        Raises:
            RuntimeMissing: none can make anything; says why.

        """
        for _ in range(self._room()):
            self._add()
        if not self._workers:
            self._said.append(f"no node has {self._setup.cpus} CPUs")
        deadline = time.monotonic() + SECONDS_TO_COME_BACK
        with self._progress.task(f"Starting {len(self._workers)} workers", total=len(self._workers)) as ticker:
            n_ready = 0
            while not all(w.host for w in self._workers) and time.monotonic() < deadline:
                self._look()
                ready = sum(bool(w.host) for w in self._workers)
                if ready and not n_ready:
                    deadline = time.monotonic() + SECONDS_FOR_OTHERS
                ticker.advance(ready - n_ready)
                n_ready = ready
        if not self.targets:
            raise self._useless("no worker of the cluster can make a trial")
        for target in self._setup.targets:
            if target not in self.targets:
                self._progress.note(f"{target} is left out: no worker of the cluster can make it")

    def stop(self) -> None:
        """End all workers."""
        self._end(self._workers)
        self._workers = []

    def _useless(self, said: str) -> RuntimeMissing:
        why = f" ({'; '.join(dict.fromkeys(self._said))})" if self._said else ""
        return RuntimeMissing(f"{said}{why}", where="--ray", hint=HINT)

    def _room(self) -> int:
        """Return how many more workers the nodes that are alive have CPUs for."""
        alive = [n["Resources"].get("CPU", 0) for n in self._ray.nodes() if n["Alive"]]
        return sum(int(cpus // self._setup.cpus) for cpus in alive) - len(self._workers)

    def _add(self) -> None:
        options = {"num_cpus": self._setup.cpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        worker = _Worker(self._ray.remote(TrialWorker).options(**options).remote())
        worker.call = worker.actor.prepare.remote(self._setup, {})
        self._workers.append(worker)

    def _look(self) -> None:
        """Wait a moment for what ends, and deal with it."""
        calls = {w.call: w for w in self._workers if w.call is not None}
        if not calls:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return
        for call in self._ray.wait(list(calls), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)[0]:
            worker = calls[call]
            worker.call = None
            try:
                found = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause or error
                said = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
                if worker.trial is None:
                    self._drop(worker, said)
                else:
                    self._lost(worker, said, "two workers could not make it")
            except self._ray.exceptions.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                # An actor that could not even begin says why at the end: most often that plm-export is not there.
                self._lost(worker, lines[-1 if "creation task" in lines[0] else 0][:200])
            else:
                if isinstance(found, Ready):
                    self._prepared(worker, found)
                else:
                    self._reported(worker, found)
        self._assign()

    def _prepared(self, worker: _Worker, found: Ready) -> None:
        if found.missing:
            for path in found.missing:
                if path not in self._archives:
                    self._archives[path] = self._ray.put(pack(Path(path)))
                worker.brought[path] = self._archives[path]
            worker.call = worker.actor.prepare.remote(self._setup, worker.brought)
            return
        if found.unfit or len(found.lacks) == len(self._setup.targets):
            self._drop(worker, f"{found.host}: {found.unfit or '; '.join(found.lacks.values())}")
            return
        for target, why in found.lacks.items():
            self._progress.note(f"a worker on {found.host} cannot make {target}, others may: {why}")
        worker.host, worker.lacks = found.host, found.lacks

    def _reported(self, worker: _Worker, found: Report) -> None:
        trial, worker.trial = worker.trial, None
        assert trial is not None
        for name, table in found.measured.items():
            self._bench.measured.setdefault(name, table)
        if found.starved and trial.tries < TRIES:
            trial.tries += 1
            self._waiting.append(trial)
            return
        outcome = found.figures or StageFailed(found.said)
        self._done.append(Done(trial.number, outcome, worker.host, trial.tries))

    def _lost(
        self, worker: _Worker, said: str, twice: str = "its worker was lost twice: most often for want of memory"
    ) -> None:
        """A worker has died or answers with nonsense: its trial alone is lost, and made again by another, once."""
        trial = worker.trial
        self._drop(worker, f"a worker was lost ({said})")
        if trial is not None and trial.tries < TRIES:
            trial.tries += 1
            self._waiting.appendleft(trial)
        elif trial is not None:
            failed = StageFailed(f"{twice} ({said})")
            self._done.append(Done(trial.number, failed, worker.host, trial.tries))
        if len(self._said) <= 2 * len(self._workers) + 2 and self._room() > 0:
            self._add()

    def _drop(self, worker: _Worker, said: str) -> None:
        self._workers.remove(worker)
        self._end([worker])
        self._said.append(said)
        self._progress.note(f"a worker of the cluster is not used any more: {said}")

    def _end(self, workers: Sequence[_Worker]) -> None:
        """End processes. They remove their files first; what is left then, the next to start there removes."""
        with contextlib.suppress(Exception):  # whatever state they are in: they are killed now
            closing = [w.actor.close.remote() for w in workers]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=SECONDS_TO_CLOSE)
        for worker in workers:
            with contextlib.suppress(Exception):
                self._ray.kill(worker.actor)

    def _assign(self) -> None:
        """Hand what waits to workers that are free and can make it."""
        for trial in list(self._waiting):
            (target,) = trial.work.varied["targets"]
            free = [w for w in self._workers if w.host and w.call is None and target not in w.lacks]
            if not free and (target in self.targets or any(w.hoped_for for w in self._workers)):
                continue
            self._waiting.remove(trial)
            if not free:
                failed = StageFailed(f"no worker of the cluster is left that can make {target}")
                self._done.append(Done(trial.number, failed, tries=trial.tries))
                continue
            free[0].trial = trial
            free[0].call = free[0].actor.make.remote(self._task(trial.work))

    def _task(self, work: Work) -> Task:
        bench = self._bench
        return Task(work.kind, work.varied, work.share, work.told, dict(bench.plain_ms), dict(bench.measured))


@contextlib.contextmanager
def started(setup: Setup, bench: "Workbench", progress: "Progress") -> Iterator[Cluster]:
    """Start workers on the cluster that this process is connected to, and end them again."""
    import ray

    cluster = Cluster(ray, setup, bench, progress)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
