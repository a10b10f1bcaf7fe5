"""What runs on a worker of a Ray cluster: a bench of its own, on which trials of a search are made."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError, ResourceLimit
from converter.fleet.transport import local_paths, path_digest, with_paths
from converter.fleet.worker import missing_of, moved_to
from converter.search.figures import Figures
from converter.search.leftovers import own_folder, remove_leftovers
from converter.search.making import Kind, Work
from converter.stage import SILENT
from converter.stage_cache.identity import own_version

if TYPE_CHECKING:
    from converter.search.binding import Binding
    from converter.search.goal import Goal
    from converter.search.workbench import Told, Workbench
    from converter.stage_cache.cache import StageCache


@dataclass(frozen=True)
class Setup:
    """What all workers are told once. Everything in it is plain, so that it can travel."""

    base: Mapping[str, Any]
    """A recipe without stages and precisions, and without the text that nothing is chosen by."""
    goal: "Goal"
    learning: str
    held_back: str
    digests: Mapping[str, str]
    """Of the files and folders that are read, by their path on the machine that asks."""
    targets: tuple[str, ...]
    seed: int
    cpus: int
    cache: str | None
    """Folder or URL of the cache of stages; empty: the worker's own; None: none."""
    cache_bytes: int
    """Of all entries of the cache together, at most."""
    code: str

    @classmethod
    def of(
        cls,
        binding: "Binding",
        targets: tuple[str, ...],
        seed: int,
        cpus: int,
        *,
        cache: str | None,
        cache_bytes: int,
    ) -> "Setup":
        """Describe a search."""
        base = binding.base_of_trials
        texts = (str(binding.learning), str(binding.held_back))
        paths = (*local_paths({k: v for k, v in base.items() if k != "calibration"}), *texts)
        digests = {p: path_digest(p) or "" for p in paths}
        return cls(base, binding.goal, *texts, digests, targets, seed, cpus, cache, cache_bytes, own_version())

    def opened_cache(self) -> "StageCache | None":
        """Open the cache of stages on this machine; None: nothing is kept."""
        from converter.stage_cache.cache import open_cache

        return None if self.cache is None else open_cache(self.cache or None, limit=self.cache_bytes)


@dataclass(frozen=True)
class Ready:
    """How a worker stands after it was told."""

    host: str
    missing: tuple[str, ...] = ()
    """Paths that it does not have, or has otherwise: then nothing is ready."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Targets that it cannot make, and why."""
    unfit: str = ""
    """Why it can make nothing at all."""


@dataclass(frozen=True)
class Task:
    """One piece of work as it travels."""

    kind: Kind
    varied: Mapping[str, Any]
    share: float
    told: "Told | None"
    plain_ms: Mapping[str, float]
    measured: Mapping[str, Any]
    """Tables of times: where one is known, no worker measures its own, and budgets lead to the same model."""
    out: Path | None = None
    """Where a package in full is made."""
    whole: Mapping[str, Any] = field(default_factory=dict)
    """The recipe of a package in full, as a recipe file has it."""


@dataclass(frozen=True)
class Report:
    """How a piece of work came out on a worker."""

    figures: Figures | None
    said: str = ""
    """Why there are no figures."""
    starved: bool = False
    """Memory or disk of the worker ran out: another may have more."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)
    """What became of a package in full."""


class TrialWorker:
    """A process of the cluster: it loads the source once, and makes one trial after the other."""

    def __init__(self) -> None:
        remove_leftovers()
        self._folder = own_folder()
        self._binding: Binding | None = None
        self._bench: Workbench | None = None

    def prepare(self, setup: Setup, brought: Mapping[str, Any]) -> Ready:
        """Load the source, ask it, and make the plain packages; `brought` are references to archives, by path."""
        import ray

        host = socket.gethostname()
        if setup.code != own_version():
            return Ready(host, unfit="it has another version of plm-export")
        missing = missing_of(setup.digests, brought)
        if missing:
            return Ready(host, missing)
        try:
            files = {path: ray.get(archive) for path, archive in brought.items()}
            return Ready(host, lacks=self._prepared(setup, moved_to(Path(self._folder.name), files)))
        except ExportError as error:
            return Ready(host, unfit=str(error))

    def close(self) -> None:
        """Remove all files of this worker: it is ended now."""
        self._bench = None
        self._folder.cleanup()

    def _prepared(self, setup: Setup, moved: Mapping[str, str]) -> dict[str, str]:
        """Return the targets that cannot be made here."""
        from converter.model_folder.given import load_model
        from converter.recipe import bind_recipe
        from converter.resources import fixed_threads
        from converter.search.binding import Binding, bench_of, read_halves
        from converter.search.starts import plain_of
        from converter.search.turns import no_two_at_once

        base = with_paths(setup.base, moved)
        learning, held_back = (Path(moved.get(p, p)) for p in (setup.learning, setup.held_back))
        work = Path(self._folder.name) / "work"
        work.mkdir()
        lacks: dict[str, str] = {}
        with fixed_threads(1):
            recipe = bind_recipe({**base, "calibration": str(learning)}, where="search")
            source = load_model(recipe, SILENT)
            _, text = read_halves(recipe, source, learning, held_back)
            cache = setup.opened_cache()
            bench = bench_of(source, text, work, SILENT, seed=setup.seed, threads=setup.cpus, cache=cache)
            bench.alone = no_two_at_once
            self._binding = Binding(base, setup.goal, source, learning, held_back)
            for target in recipe.targets:
                if target.name not in setup.targets:
                    continue
                try:
                    target.check_runtime()
                    bench.make_plain(self._binding.bound(plain_of(target.name)))
                except ExportError as error:
                    lacks[target.name] = str(error)
        self._bench = bench
        return lacks

    def make(self, task: Task) -> Report:
        """Make one candidate as far as it is asked for."""
        from converter.resources import fixed_threads

        assert self._bench is not None
        assert self._binding is not None
        with fixed_threads(1):
            return report_of(task, self._binding, self._bench)


def report_of(task: Task, binding: "Binding", bench: "Workbench") -> Report:
    """Make one candidate on a bench, and tell how it came out; what goes wrong is told, too."""
    from converter.recipe import bind_recipe
    from converter.search.saying import said_of
    from converter.search.whole import made_in_full

    bench.plain_ms, bench.measured = dict(task.plain_ms), dict(task.measured)
    try:
        if task.out is not None:
            return Report(None, whole=made_in_full(bind_recipe(task.whole), task.out, bench, SILENT, bench.threads))
        work = Work(task.kind, binding.bound(task.varied), task.varied, task.share, task.told)
        return Report(work.on(bench), measured=bench.measured)
    except ResourceLimit as error:
        return Report(None, str(error), starved=True)
    except Exception as error:  # noqa: BLE001 - told where the trials are told
        try:
            return Report(None, said_of(error))
        except ResourceLimit as limit:
            return Report(None, str(limit), starved=True)
