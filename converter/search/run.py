"""A search from its goal to its packages: the only place that knows the order of things."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import converter
from converter.context import context_of, missing_runtimes
from converter.data.split import TextSplit, split_text
from converter.data.survey import DataOptions
from converter.errors import ExportError, ResourceLimit, UsageError
from converter.jsonfile import json_values
from converter.planning import seconds_a_text
from converter.recipe import Recipe, bind_recipe
from converter.reference import Reference, capture_reference
from converter.resources import fixed_threads
from converter.search.binding import Binding, bench_of, model_digest, read_halves
from converter.search.estimates import effort_share, making_seconds, training_pace
from converter.search.finalists import Finalist, Finals, confirmed, decide, place
from converter.search.folder import SearchFolder
from converter.search.goal import Goal
from converter.search.local import Local
from converter.search.making import Maker
from converter.search.report import write_search_reports
from converter.search.reserve import LATE, Pace, Reserve
from converter.search.result import FORMAT, Subject, table_of
from converter.search.space import Space
from converter.search.starts import Start, plain_of, starts_of
from converter.search.study import Sampler, Study, load_optuna, open_study
from converter.search.trials import Trials
from converter.search.workbench import Workbench
from converter.stage import SILENT, OutcomeCache, Progress
from converter.stage_cache.cache import DEFAULT_BYTES

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.model_folder.given import GivenText

TUNING_SHARE, MOST_TUNING = 0.25, 2000
"""Of the calibration text, what candidates are chosen by."""
ASKED = 1.5
"""Times that a package reads the tuning text at about the source's pace."""
WORTH_TRIALS = 20
"""Trials for which a search is worth its while."""
WORTH_STARTING = 60.0
"""Seconds for which it is worth to start further processes, which load libraries and the model first."""


@dataclass(frozen=True)
class Order:
    """What is to be searched for, with what, and for how long."""

    base: Mapping[str, Any]
    """A recipe without stages and precisions: model, targets, text and how it is read."""
    goal: Goal
    minutes: float = 30.0
    keep: int | None = None
    """Packages that are kept; None: one for each target."""
    without: tuple[str, ...] = ()
    sampler: Sampler = "tpe"
    trials: int | None = None
    """At most so many in the study; None: as many as the time allows."""
    ray: str | None = None
    """Address of the Ray cluster that makes trials; None: this process does."""
    cpus: int = 1
    """Of a trial on the cluster."""
    cache: str | None = None
    """Folder or URL of the cache of stages, for workers too; None: the user's own."""
    cached: OutcomeCache | None = None
    """The cache, opened; None: nothing is kept beyond the search."""
    cache_bytes: int = DEFAULT_BYTES
    """Of all entries of the cache together, at most; for workers too."""


READ_BY = frozenset({"max_length", "columns", "label_map"})
"""Keys of a recipe by which the same file is another text."""


@dataclass
class _Search:
    """One search while it runs."""

    order: Order
    recipe: Recipe
    folder: SearchFolder
    source: "TorchModel"
    text: TextSplit
    space: Space
    progress: Progress
    started: float
    threads: int
    """Of what compresses the model; all else runs in one."""

    def left(self) -> float:
        return 60 * self.order.minutes - (time.monotonic() - self.started)

    @property
    def binding(self) -> Binding:
        text = self.text
        return Binding(self.order.base, self.order.goal, self.source, text.learning, text.held_back)

    @property
    def cache(self) -> str | None:
        """Return the place of the cache of stages, as other processes open it; empty: the user's own; None: none."""
        return None if self.order.cached is None else self.order.cache or ""

    @property
    def keep(self) -> int:
        return self.order.keep or len(self.space.targets)

    def bound(self, varied: Mapping[str, Any], *, whole: bool = False) -> Recipe:
        return self.binding.bound(varied, whole=whole)


def search(order: Order, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Search until the time is over, keep the best packages in `out`, and return the table of `search.json`.

    Raises:
        UsageError: the goal, the time, the space or what is in `out` allows no search.
        DataError: the calibration text cannot be split, or lacks the labels that the goal needs.
        RuntimeMissing: Optuna, or the runtime of all targets, is not installed.

    """
    import torch

    from converter.model_folder.given import load_model, read_given

    started = time.monotonic()
    load_optuna()
    limits = order.goal.gate_limits()  # refused now, not when the first package is made in full
    recipe = bind_recipe({**order.base, **({"limits": limits} if limits else {})}, where="search")
    threads = order.cpus if order.ray else recipe.threads or torch.get_num_threads()
    if recipe.calibration is None:
        raise UsageError("a search needs text to learn from and to choose by", where="--calibration")
    space = _space(order, recipe, progress.note)
    folder = SearchFolder(out.expanduser().absolute())
    with _connected(order.ray), folder.held(progress.note, force=force), fixed_threads(1):
        with progress.task("Loading the model"):
            source = load_model(recipe, progress)
        _refuse_writer(source)
        given = read_given(recipe, source, progress)
        _refuse_unlabelled(order.goal, given, recipe)
        text = _split(recipe, source, folder, progress)
        made = _Search(order, recipe, folder, source, text, space, progress, started, threads)
        return _run(made, given)


def _connected(address: str | None) -> AbstractContextManager[Any]:
    """Connect to the cluster before any work, if there is one."""
    if address is None:
        return contextlib.nullcontext()
    from converter.fleet.ray_cluster import connection

    return connection(address)


def _space(order: Order, recipe: Recipe, note: Callable[[str], None]) -> Space:
    missing = missing_runtimes(recipe)
    for name, error in missing.items():
        note(f"{name} is left out: {error}")
    targets = tuple(t.name for t in recipe.targets if t.name not in missing)
    return Space(targets, without=order.without)


def _refuse_writer(source: "TorchModel") -> None:
    if source.cache is not None:
        raise UsageError(
            f"a search is for encoders, and a model for {source.task.name} writes text",
            hint="export it with --quantize auto, which tries its precisions",
        )


def _refuse_unlabelled(goal: Goal, given: "GivenText", recipe: Recipe) -> None:
    if goal.max_drop is None:
        return
    for file, flag, examples in (
        (recipe.calibration, "--calibration", given.calibration),
        (recipe.evaluation, "--eval", given.evaluation),
    ):
        if any(e.label is None for e in examples):
            raise UsageError(
                f"--max-drop needs labelled text, and {file} has texts without a label",
                where="--max-drop",
                hint=f"give {flag} a file with labels, or use --min-agreement",
            )


def _split(recipe: Recipe, source: "TorchModel", folder: SearchFolder, progress: Progress) -> TextSplit:
    from converter.model_folder.samples import resolve_data

    assert recipe.calibration is not None
    made = split_text(
        resolve_data(recipe.calibration, progress),
        source.task,
        DataOptions(recipe.columns, recipe.label_map, strict=False),
        folder.new_text(),
        share=TUNING_SHARE,
        most=MOST_TUNING,
        seed=recipe.seed,
    )
    return folder.with_text(made)


def _run(made: _Search, given: "GivenText") -> dict[str, Any]:
    bench, pace = _bench(made)
    making = making_seconds(made.source)
    first = making + ASKED * pace * made.text.n_held_back
    _refuse_short(made, first)
    _make_plain(made, bench)
    starts = starts_of(made.space, _wanted_speedup(made.order.goal, bench))
    _time_tables(made, bench, starts)
    a_text, in_full = training_pace(bench), training_pace(bench, made.threads)
    with _maker(made, bench) as maker:
        many = isinstance(maker, Local) and maker.slots > 1
        paces = Pace(first, making, a_text, a_text if many else in_full, lambda: maker.slots if many and maker else 1)
        reserve = _tried(made, bench, maker, starts, paces)
        study, local = reserve.study, maker if isinstance(maker, Local) else None
        whole = lambda v: made.bound(v, whole=True)  # noqa: E731
        late = LATE * reserve.whole
        finals = Finals(bench, made.order.goal, made.folder, whole, made.progress, local, reserve.in_full, late)
        finalists = finals.make_all(study.trials, made.space.targets, made.keep, made.left)
    return _finish(made, bench, study, given, finals, finalists, reserve.share)


def _time_tables(made: _Search, bench: Workbench, starts: Sequence[Start]) -> None:
    """Time what forecasts are made by, as long as nothing else runs here."""
    for start in starts:
        for recipe in made.space.in_each_precision(start.recipe):
            with contextlib.suppress(ExportError):  # its trial says why
                bench.foretell(made.bound(recipe), times=True)


@contextlib.contextmanager
def _maker(made: _Search, bench: Workbench) -> Iterator[Maker | None]:
    """Start the workers of the cluster, if there is one; targets that no worker can make are left out."""
    order = made.order
    if order.ray is None:
        with _beside(made, bench) as local:
            yield local
        return
    from converter.search.cluster import started
    from converter.search.worker import Setup

    setup = Setup.of(
        made.binding, made.space.targets, made.recipe.seed, order.cpus, cache=made.cache, cache_bytes=order.cache_bytes
    )
    with started(setup, bench, made.progress) as cluster:
        made.space = replace(made.space, targets=cluster.targets)
        yield cluster


@contextlib.contextmanager
def _beside(made: _Search, bench: Workbench) -> Iterator[Maker | None]:
    """Start a process for every core, where there is time and memory for more than one."""
    from converter.search.local import Given, room_for, started

    n = room_for(made.source.size_bytes, made.threads)
    if n == 1 or made.left() < WORTH_STARTING or (made.order.trials or n) < n:
        yield None
        return
    order = made.order
    plain = {t.name: bench.plain_folder(t) for t in made.recipe.targets if t.name in bench.plain}
    given = Given.of(made.binding, bench, plain, cache=made.cache, cache_bytes=order.cache_bytes)
    with started(given, bench, made.progress, n) as local:
        yield local


def _tried(made: _Search, bench: Workbench, maker: Maker | None, starts: Sequence[Start], pace: Pace) -> Reserve:
    """Make trials until the time is over; returns them with what is known of the time that they took."""
    goal, seed, sampler = made.order.goal, made.recipe.seed, made.order.sampler
    study = open_study(made.folder.study, made.space, goal, (), _identity(made), seed=seed, sampler=sampler)
    # Trials of an earlier run were timed by its plain package, on the machine as it was.
    bench.plain_ms = {t: study.setting(f"plain_ms {t}", ms) for t, ms in bench.plain_ms.items()}
    study.start_with(starts)
    slots = 1 if maker is None else maker.slots
    share = study.setting("share", _share(made, bench, starts, pace, slots))
    trials = Trials(study, goal, bench, made.bound, share, made.progress, most=made.order.trials, maker=maker)
    whole = 60 * made.order.minutes
    reserve = Reserve(bench, study, goal, made.space.targets, made.keep, made.bound, share, pace, whole)
    with made.progress.task("Searching") as ticker:  # it says itself how much time is left
        trials.run(ticker, made.left, reserve.seconds, pace.first)
    return reserve


def _make_plain(made: _Search, bench: Workbench) -> None:
    """Make the plain packages; a target that refuses the model is left out where there is another."""
    able = []
    for target in made.space.targets:
        try:
            with made.progress.task(f"Making the plain package for {target}"):
                bench.make_plain(made.bound(plain_of(target)))
            able.append(target)
        except ExportError as error:
            if len(made.space.targets) == 1 or isinstance(error, ResourceLimit):
                raise
            made.progress.note(f"{target} is left out: {error}")
    if not able:
        raise UsageError("no target can pack this model", hint="plm-export MODEL --target NAME says why")
    made.space = replace(made.space, targets=tuple(able))


def _bench(made: _Search) -> tuple[Workbench, float]:
    """Read the text, ask the source, and return the bench with seconds that the source takes for a text."""
    recipe, text = read_halves(made.recipe, made.source, made.text.learning, made.text.held_back)
    with TemporaryDirectory(prefix="plm-search-") as work:
        pace = seconds_a_text(made.source, context_of(recipe, made.source, text, Path(work), SILENT))
    bench = bench_of(
        made.source,
        text,
        made.folder.work,
        made.progress,
        seed=made.recipe.seed,
        threads=made.threads,
        cache=made.order.cached,
    )
    return bench, pace


def _refuse_short(made: _Search, first: float) -> None:
    if 60 * made.order.minutes < first:
        raise UsageError(
            f"{60 * made.order.minutes:.0f} s are shorter than one trial, which takes about {first:.0f} s here",
            where="--minutes",
            hint=f"give at least {max(1, round(WORTH_TRIALS * first / 60))}",
        )


def _wanted_speedup(goal: Goal, bench: Workbench) -> float | None:
    """Return the speedup over plain that the limits ask for."""
    asked = [goal.speedup] if goal.speedup is not None else []
    if goal.latency_ms is not None:
        asked.append(max(bench.plain_ms.values()) / goal.latency_ms)
    return max(asked, default=None)


def _identity(made: _Search) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": converter.__version__,
        "model": model_digest(made.source),
        "task": made.source.task.name,
        "text": made.text.digest,
        "reading of the text": json_values({k: v for k, v in made.order.base.items() if k in READ_BY}),
        "goal": made.order.goal.table(),
        "space": made.space.digest,
        "seed": made.recipe.seed,
    }


def _share(made: _Search, bench: Workbench, starts: Sequence[Start], pace: Pace, slots: int) -> float:
    recipes = []
    for start in starts:
        with contextlib.suppress(ExportError):  # its trial says why
            recipes.append(made.bound(start.recipe))
    return effort_share(bench, recipes, made.left(), pace.making, pace.a_text, slots)


def _finish(
    made: _Search,
    bench: Workbench,
    study: Study,
    given: "GivenText",
    finals: Finals,
    finalists: list[Finalist],
    share: float,
) -> dict[str, Any]:
    """Decide, look at `--eval`, and write everything down."""
    decision = decide(finalists, study.trials, made.order.goal, made.recipe.seed)
    reference: Reference | None = None
    if made.recipe.evaluation is not None and given.evaluation and decision.winner is not None:
        reference = capture_reference(made.source, given.evaluation, made.progress, given.evaluation, given.notes)
        judged = finals.judge(decision.ranked, reference)
        decision = replace(decision, winner=judged[0], ranked=judged)
        decision = replace(decision, gain=confirmed(decision.gain, judged[0], judged))
    decision = place(decision, made.folder, made.keep, [f.trial.number for f in finalists])
    told = Subject(
        made.source,
        made.order.goal,
        made.text,
        made.space.targets,
        made.order.sampler,
        made.recipe.seed,
        time.monotonic() - made.started,
        made.folder.root,
        share,
    )
    table = table_of(told, bench, study.trials, decision, reference)
    write_search_reports(table, made.folder.root)
    return table
