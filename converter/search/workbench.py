"""Makes candidates from a part of the text and judges them on the tuning text: cheaply first, then as packages."""

import hashlib
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.binding import with_effort
from converter.forecast import Forecast, forecast_of
from converter.planning import speed_of
from converter.recipe import Recipe, aim_of, tried
from converter.reference import Reference, encode_probes, judge_batched, torch_run
from converter.resources import fixed_threads, release_memory
from converter.search.figures import Figures
from converter.search.losses import Scored, score_of
from converter.search.shared import Shared
from converter.stage import SILENT, Context, OutcomeCache, Progress, Stage, options_of, run_stage
from converter.validate.answers import RunFailed, ask
from converter.validate.speed import SLOW_SECONDS
from converter.validate.vocabulary import as_seen_by

if TYPE_CHECKING:
    from converter.examples import Example
    from converter.target import Runner, Target

KEPT_MODELS = 8
"""Compressed models that stay at hand, so that recipes which begin alike go on from there."""
TIMED_TEXTS = 32
TURNS, CALLS = 2, 4
"""Of each package on a text, and calls in each turn, of which the first is not timed: it finds another one's weights in
the processor's caches."""
TIMING_SECONDS, LEAST_TEXTS = 4.0, 6
"""No more texts than these are timed once it took so long."""
GLANCE = 2
"""The first look is on every second tuning text."""


@dataclass(frozen=True)
class Told:
    """What is known of a candidate before it is made; None: nothing is."""

    milliseconds: float | None
    speedup: float | None
    megabytes: float
    passes: float


@dataclass
class Made:
    """What some stages made of the source, and where its files lie."""

    model: TorchModel
    folder: Path
    further: dict[tuple[Stage[Any, Any], ...], Artifact] = field(default_factory=dict)
    """What a target's stages made of it."""


@dataclass(frozen=True)
class Opened:
    """A package that runs: the model that its text is read by, and the runner."""

    model: TorchModel
    runner: "Runner"


@dataclass
class Workbench:
    """All that trials share: the source, its answers to the tuning text, and the plain packages to time beside."""

    source: TorchModel
    learning: "Sequence[Example]"
    reference: Reference
    """The source's answers to the tuning text."""
    work: Path
    seed: int = 0
    threads: int | None = None
    """Of what compresses the model; None: one."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Tables of times: measured once for all trials."""
    progress: Progress = SILENT
    cache: OutcomeCache | None = None
    """What stages have made, in this search or before; None: only what is at hand."""
    alone: "Callable[[], AbstractContextManager[None]]" = nullcontext
    """Within it packages and sub-layers are timed: on this machine nothing else of the search runs then."""
    plain: dict[str, Opened] = field(default_factory=dict)
    plain_ms: dict[str, float] = field(default_factory=dict)
    kept: "OrderedDict[str, Made]" = field(default_factory=OrderedDict)
    shared: Shared = field(default_factory=Shared)
    foretold: dict[str, Forecast] = field(default_factory=dict)
    """By stages, as `kept`."""

    def context(self, recipe: Recipe, work: Path) -> Context:
        return Context(
            work=work,
            seed=self.seed,
            calibration=tuple(self.learning),
            held_out=tuple(p.example for p in self.reference.probes),
            teacher=self.source,
            progress=self.progress,
            aim=aim_of(recipe),
            threads=self.threads,
            measured=self.measured,
            shared=self.shared,
            cache=self.cache,
            alone=self.alone,
        )

    def foretell(self, recipe: Recipe, *, times: bool) -> Told:
        """Return the forecast of a recipe; `times`: with those of this machine's table, measured first if need be.

        Raises:
            ExportError: a stage refuses the model.

        """
        ctx = self.context(recipe, self.work)
        whole = forecast_of(self.source)
        now = self._forecast(recipe, ctx, whole)
        (target,), (precision,) = recipe.targets, recipe.precisions
        chosen = target.menu()[tried(target, precision)[0].name]
        speedup = self._forecast_speedup(recipe, ctx, now, whole) if times else None
        plain = self.plain_ms.get(target.name)
        milliseconds = plain / speedup if plain and speedup else None
        return Told(milliseconds, speedup, now.bytes(chosen.bytes_a_weight) / 1e6, now.passes - whole.passes)

    def _forecast(self, recipe: Recipe, ctx: Context, now: Forecast) -> Forecast:
        """Return the forecast behind all stages; what begins alike is told once."""
        for i, stage in enumerate(recipe.compress):
            key = _key(recipe.compress[: i + 1], recipe)
            if key not in self.foretold:
                self.foretold[key] = stage.forecast(now, self.source, ctx)
            now = self.foretold[key]
        return now

    def _forecast_speedup(self, recipe: Recipe, ctx: Context, now: Forecast, whole: Forecast) -> float | None:
        """Return how much faster than the unpruned model of the same precision; None where no table tells."""
        if now.widths == whole.widths:
            return 1.0
        speed = speed_of(recipe, self.source, ctx)
        before, after = speed(whole), speed(now)
        return before / after if before and after else None

    def compress(self, recipe: Recipe, share: float) -> Made:
        """Run what compresses the model, with a share of the effort; what begins alike is made once."""
        stages = tuple(with_effort(stage, share) for stage in recipe.compress)
        made = self._once((), recipe, self.source)
        for i in range(len(stages)):
            made = self._once(stages[: i + 1], recipe, made.model)
        return made

    def _once(self, stages: tuple[Stage[Any, Any], ...], recipe: Recipe, given: TorchModel) -> Made:
        """Return what `stages` make of the source; `given` is what all but the last of them made."""
        key = _key(stages, recipe)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        folder = self.work / key
        folder.mkdir(parents=True, exist_ok=True)
        model = made_by(stages[-1], given, self.context(recipe, folder), self.threads) if stages else given
        self.kept[key] = Made(model, folder)
        while len(self.kept) > KEPT_MODELS:
            _, oldest = self.kept.popitem(last=False)
            shutil.rmtree(oldest.folder, ignore_errors=True)
        return self.kept[key]

    def glance(self, recipe: Recipe, share: float, told: Told) -> Figures:
        """Judge the compressed model in PyTorch, before it is quantized: to make a package of it takes as long again.

        Raises:
            ExportError: a stage refuses or fails.

        """
        made = self.compress(recipe, share)
        shown, reference = as_seen_by(made.model, self.source, self.reference, None, SILENT)
        probes = reference.probes[::GLANCE]
        judged = judge_batched(made.model, probes, torch_run(made.model), SILENT, "")
        found = score_of(shown, reference, judged, range(0, len(reference.judged), GLANCE))
        plain = self.plain_ms[recipe.targets[0].name]
        return _figures(found, told.milliseconds or plain, told.speedup or 1.0, told.megabytes, share)

    def measure(self, recipe: Recipe, share: float) -> Figures:
        """Make the package with a share of the effort, judge it on the tuning text, and time it beside the plain one.

        Raises:
            ExportError: a stage or the target refuses or fails.
            RunFailed: the runtime refused a text.

        """
        (target,) = recipe.targets
        made = self.compress(recipe, share)
        folder = made.folder / "package"
        try:
            opened, megabytes = self._package(recipe, made, folder, share)
            return self.judged(opened, target.name, megabytes, share)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            release_memory()

    def make_plain(self, recipe: Recipe) -> None:
        """Make the plain package of a target, which all others are timed beside; it stays open."""
        (target,) = recipe.targets
        opened, _ = self._package(recipe, self.compress(recipe, 1.0), self.plain_folder(target), 1.0)
        self.plain[target.name] = opened
        times = self._in_turns({"plain": opened})["plain"]
        self.plain_ms[target.name] = 1000 * median(times)

    def plain_folder(self, target: "Target") -> Path:
        return self.work / f"plain-{target.name}"

    def open_plain(self, target: "Target", folder: Path) -> None:
        """Open a plain package that another bench has made of the same source."""
        self.plain[target.name] = Opened(self.source, target.open(folder, self.source.specs))

    def _package(self, recipe: Recipe, made: Made, folder: Path, share: float) -> tuple[Opened, float]:
        (target,), (precision,) = recipe.targets, recipe.precisions
        (precision,) = tried(target, precision)[:1]
        stages = tuple(with_effort(s, share) for s in target.stages(precision.name, precision.options, made.model))
        ctx = self.context(recipe, made.folder)
        artifact: Artifact = made.model
        for i, stage in enumerate(stages):
            begun = stages[: i + 1]
            if begun not in made.further:
                made.further[begun] = made_by(stage, artifact, ctx, 1)
            artifact = made.further[begun]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        bundle = target.emit(artifact, made.model, folder, ctx)
        bundle.verify()
        return Opened(made.model, target.open(folder, made.model.specs)), bundle.size_bytes / 1e6

    def judged(self, opened: Opened, target: str, megabytes: float, share: float = 1.0) -> Figures:
        """Return the figures of an open package on the tuning text."""
        found = self.score(opened, self.reference)
        times = self._in_turns({"plain": self.plain[target], "candidate": opened})
        pairs = list(zip(times["plain"], times["candidate"], strict=True))
        speedup = median(a / b for a, b in pairs)
        return _figures(found, self.plain_ms[target] / speedup, speedup, megabytes, share)

    def score(self, opened: Opened, reference: Reference) -> Scored:
        """Return how a package answers text whose answers by the source are known.

        Raises:
            RunFailed: the runtime refused a text, or answered what is no number.

        """
        shown, seen = as_seen_by(opened.model, self.source, reference, opened.runner.max_length, SILENT)
        answers = ask(shown, seen.probes, opened.runner.run, self.progress, "Asking the candidate", seen.judged)
        if fault := answers.fault():
            raise RunFailed(fault)
        return score_of(shown, seen, answers.judged)

    def _in_turns(self, opened: dict[str, Opened]) -> dict[str, list[float]]:
        """Return seconds of each of some texts, the best of some calls; all take turns."""
        examples = _spread(self.reference, TIMED_TEXTS)
        feeds = {}
        for name, one in opened.items():
            longest = min(one.model.max_length, one.runner.max_length or one.model.max_length)
            probes = encode_probes(replace(one.model, max_length=longest), examples)
            feeds[name] = [one.model.task.feed(one.model.specs, [p.encoding]) for p in probes]
        best: dict[str, list[float]] = {name: [] for name in opened}
        with fixed_threads(1), self.alone():
            began, slow = time.perf_counter(), False
            for number in range(len(examples)):
                if number >= LEAST_TEXTS and time.perf_counter() - began > TIMING_SECONDS:
                    break
                found: dict[str, list[float]] = {name: [] for name in opened}
                for name, one in (turn for _ in range(1 if slow else TURNS) for turn in opened.items()):
                    for call in range(2 if slow else CALLS):
                        started = time.perf_counter()
                        one.model.task.answer(one.model.specs, one.runner.run, feeds[name][number])
                        if call:
                            found[name].append(time.perf_counter() - started)
                for name, times in found.items():
                    best[name].append(min(times))
                slow = max(map(max, found.values())) > SLOW_SECONDS
        return best

    def open(self, out: Path, package: str, target: "Target") -> Opened:
        """Open a sealed package of a run's output, and the compressed model that it was made from, if it was."""
        from converter.model_folder.load import load_source

        folder, compressed = out / package, out / "compressed"
        if not compressed.is_dir():
            return Opened(self.source, target.open(folder, self.source.specs))
        model = load_source(str(compressed), task=self.source.task.name)
        own, theirs = model.tokenizer.get_vocab(), self.source.tokenizer.get_vocab()
        if own != theirs:  # trimmed: its files do not say which tokens of the source are left
            model = replace(model, source_ids=tuple(theirs[token] for token in sorted(own, key=lambda t: own[t])))
        model = replace(model, max_length=min(model.max_length, self.source.max_length))
        return Opened(model, target.open(folder, model.specs))


def made_by(stage: Stage[Any, Any], given: Artifact, ctx: Context, threads: int | None) -> Any:
    """Run one stage, or take from the context's cache what it made before."""
    with fixed_threads(threads or 1):
        return run_stage(stage, given, ctx)[0]


def _key(stages: tuple[Stage[Any, Any], ...], recipe: Recipe) -> str:
    """Return what tells one chain of stages from others; budgets are those of the aim."""
    told = repr([(stage.name, options_of(stage)) for stage in stages]) + (repr(aim_of(recipe)) if stages else "")
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _figures(found: Scored, milliseconds: float, speedup: float, megabytes: float, share: float) -> Figures:
    return Figures(
        loss=found.loss,
        metric=found.metric,
        drop=found.drop,
        agreement=found.agreement,
        milliseconds=milliseconds,
        speedup=speedup,
        megabytes=megabytes,
        losses=found.losses,
        effort=share,
    )


def _spread(reference: Reference, limit: int) -> "list[Example]":
    """Return some texts, evenly over their lengths."""
    ordered = sorted(reference.probes, key=lambda p: p.encoding.length)
    step = max(1, len(ordered) // limit)
    return [p.example for p in ordered[step // 2 :: step]][:limit]
