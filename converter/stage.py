"""The contract of a stage, and the one function that runs stages and writes their records."""

import dataclasses
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from converter.artifact import Artifact
from converter.errors import UsageError
from converter.graphs import Kind

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.forecast import Forecast
    from converter.target import Aim

Given = TypeVar("Given", bound=Artifact)
Made = TypeVar("Made", bound=Artifact)


class Ticker(Protocol):
    """One running piece of work."""

    def advance(self, steps: float = 1) -> None: ...
    def describe(self, text: str) -> None: ...


class Progress(Protocol):
    """Where progress is shown. `total` None: the end is not known."""

    def task(self, title: str, total: float | None = None) -> AbstractContextManager[Ticker]: ...
    def note(self, text: str) -> None: ...


class _Silent:
    def advance(self, steps: float = 1) -> None:
        """Show nothing."""

    def describe(self, text: str) -> None:
        """Show nothing."""

    def task(self, title: str, total: float | None = None) -> AbstractContextManager[Ticker]:
        return nullcontext(self)

    def note(self, text: str) -> None:
        """Show nothing."""


SILENT: Progress = _Silent()


class OutcomeCache(Protocol):
    """Where outcomes of stages are kept between runs; see `converter.stage_cache.cache.StageCache`."""

    def outcome(self, stage: "Stage[Any, Any]", given: Artifact, ctx: "Context") -> "tuple[Outcome[Any], bool]":
        """Return the verified outcome of a stage, run or taken, and whether it was taken."""
        ...


class OtherRanks(Protocol):
    """The other processes of a launch; see `converter.ranks.group.Ranks`."""

    def summon(self, stage: "Stage[Any, Any]", given: Artifact, ctx: "Context") -> None:
        """Have them run a stage on the same model too, from now on."""
        ...


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its options: nothing in this project is global; proofs have `ProofContext`."""

    work: Path
    """A scratch folder on the output's own disk; removed when the run ends."""
    seed: int = 0
    calibration: tuple["Example", ...] = ()
    """Real text: importance, ranges and distillation come from it. Labels where the file had them."""
    calibration_is_builtin: bool = False
    teacher: "TorchModel | None" = None
    """The source model, unchanged."""
    held_out: tuple["Example", ...] = ()
    """Text that packages are judged by: stages may report on it, but never learn from it."""
    progress: Progress = SILENT
    aim: "Aim | None" = None
    """What the run makes first: budgets of time and size are those of its precision."""
    threads: int | None = None
    """Of what compresses the model, training and calibration included; None: as many as PyTorch takes."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Tables of times that were measured in this run, or in the run that is made again: stages read and add to it."""
    shared: MutableMapping[str, Any] | None = None
    """What stages of several runs in one process work out alike, by a digest of all that it follows from: whoever needs
    it takes it from there. None: nothing is kept."""
    resume: Path | None = None
    """Where long stages keep checkpoints that outlive an interrupted run; None: none are kept."""
    cache: OutcomeCache | None = None
    """What stages made in earlier runs; None: every stage runs."""
    ranks: OtherRanks | None = None
    """Other processes that stages which train run in too; None: this one is alone, or not the first."""
    alone: "Callable[[], AbstractContextManager[None]]" = nullcontext
    """Within it stages time what they choose by: nothing else of the same search runs then."""
    check_room: "Callable[[Stage[Any, Any], Any], None] | None" = None
    """Raises where a stage would take more memory than it may, just before it runs; None: nothing is held to that."""


GRADIENTS = "it takes gradients through the whole model"
TRAINING_COPIES = 5.0
"""Weights, gradients, AdamW's two moments, and the teacher."""


@dataclass(frozen=True)
class Outcome(Generic[Made]):
    """What a stage made, and the facts worth keeping (JSON values)."""

    made: Made
    facts: dict[str, Any] = field(default_factory=dict)


class Stage(ABC, Generic[Given, Made]):
    """A frozen dataclass: its fields are its options, `run` turns one artifact into the next."""

    name: ClassVar[str] = ""
    """`folder.file`, given by the registry."""
    summary: ClassVar[str] = ""
    takes: ClassVar[tuple[Kind, ...]] = ("encoder",)
    """The kinds of models that it knows; another is refused before any work."""
    why_not: ClassVar[str] = ""
    """Why it does not know the others, as half a sentence."""
    needs_text: ClassVar[bool] = False
    """Works from `Context.calibration`."""
    trains: ClassVar[bool] = False
    """Runs in all processes of a launch; any other stage runs in the first alone."""
    bars: ClassVar[tuple[str, ...]] = ()
    """What cannot come after it in a recipe: names of stages, or the beginning of names."""
    why_bars: ClassVar[str] = ""
    """What `marks` finds, as in "its layers drop tokens"; told where it bars a stage in a later run."""
    copies: ClassVar[float] = 2.0
    """Most times that the weights lie in memory at once while it works, given and teacher among them."""
    leaves_on_disk: ClassVar[bool] = False
    """What it makes of a model whose weights are on disk has them there too."""
    place: ClassVar[int | None] = None
    """Where `plm-export search` puts it: lower places run first, stages of one place are alternatives. None: nowhere.

    Which values of its options are tried stands with the options, see `converter.binding.option`.
    """

    @classmethod
    def marks(cls, source: "TorchModel") -> bool:
        """Tell whether a source was made with it in an earlier run, so that what it bars is barred from the start."""
        return False

    def check(self, source: "TorchModel", *, has_text: bool) -> None:
        """Raise where it can be told from the source that `run` would refuse: nothing has been done yet.

        `has_text`: the recipe gives calibration text of the user's own.
        """

    def check_after(self, before: "Sequence[Stage[Any, Any]]") -> None:
        """Raise where the stages `before` this one in the recipe leave it nothing to do."""

    def needs_whole(self) -> str:
        """Return why it needs all weights of the model in memory, as a sentence's beginning; empty: it does not."""
        return GRADIENTS if self.trains else "it works on all weights at once"

    def beside(self, model: "TorchModel") -> int:
        """Return the bytes of main memory that it takes beside a model that is given."""
        return int((self.copies - 1) * model.size_bytes)

    def forecast(self, now: "Forecast", model: "TorchModel", ctx: Context) -> "Forecast":
        """Return what `run` would make of a model of the size `now`; `model` is the source, for its shape and words."""
        return now

    @abstractmethod
    def run(self, given: Given, ctx: Context) -> Outcome[Made]:
        """Make the next artifact. `given` is not changed."""


@dataclass(frozen=True)
class Record:
    """What one stage did, as it stands in the manifest."""

    stage: str
    options: dict[str, Any]
    seconds: float
    size_bytes_given: int
    size_bytes_made: int
    peak_memory_bytes: int
    """Highest resident size of the process so far (getrusage), not of the stage alone."""
    facts: dict[str, Any]
    digest_given: str
    """SHA-256 of what went in and …"""
    digest_made: str
    """… of what came out; see `Artifact.digest`."""
    cached: bool = False
    """It was made by an earlier run and taken from the cache: `seconds` are those that this took."""


def options_of(stage: Any) -> dict[str, Any]:
    """Return the options of a stage or target as plain values."""
    return {f.name: _plain(getattr(stage, f.name)) for f in dataclasses.fields(stage)}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def check_stage(stage: Stage[Any, Any], source: "TorchModel", *, has_text: bool) -> None:
    """Raise where it can be told from the source that `stage` would refuse it; see `Stage.check`.

    Raises:
        UsageError: it does not know this kind of model.

    """
    if source.task.kind not in stage.takes:
        kind = source.task.kind
        raise UsageError(
            f"it works on {' and '.join(f'{known}s' for known in stage.takes)}, and a model for {source.task.name} is "
            f"run as {'an' if kind[0] == 'e' else 'a'} {kind}{f': {stage.why_not}' if stage.why_not else ''}",
            where=stage.name or type(stage).__name__,
            hint="leave this step out for this model",
        )
    _refuse_behind_earlier_run(stage, source)
    stage.check(source, has_text=has_text)


def _refuse_behind_earlier_run(stage: Stage[Any, Any], source: "TorchModel") -> None:
    """Raise where a recipe could not have `stage` behind what an earlier run has made of the source."""
    from converter.registry import stage_class, stage_names

    for earlier in map(stage_class, stage_names()):
        # That it cannot run twice, its own check tells.
        barred = stage.name != earlier.name and stage.name.startswith(earlier.bars or ("\0",))
        if barred and earlier.marks(source):
            never = earlier.name.startswith(stage.bars or ("\0",))
            raise UsageError(
                f"the source was made with {earlier.name} ({earlier.why_bars}): {stage.name} cannot come after that",
                where=stage.name,
                hint=f"leave {stage.name} out"
                if never
                else f"start from the model as it was before, with {stage.name} first and {earlier.name} behind it",
            )


def run_stage(stage: Stage[Given, Made], given: Given, ctx: Context) -> tuple[Made, Record]:
    """Run, verify what was made, and write the record."""
    started = time.perf_counter()
    outcome, cached = _outcome(stage, given, ctx)
    record = Record(
        stage=stage.name or type(stage).__name__,
        options=options_of(stage),
        seconds=round(time.perf_counter() - started, 3),
        size_bytes_given=given.size_bytes,
        size_bytes_made=outcome.made.size_bytes,
        peak_memory_bytes=peak_memory_bytes(),
        facts=outcome.facts,
        digest_given=given.digest,
        digest_made=outcome.made.digest,
        cached=cached,
    )
    return outcome.made, record


def _outcome(stage: Stage[Given, Made], given: Given, ctx: Context) -> tuple[Outcome[Made], bool]:
    if ctx.cache is not None:
        return ctx.cache.outcome(stage, given, ctx)
    outcome = execute(stage, given, ctx)
    outcome.made.verify()
    return outcome, False


def execute(stage: Stage[Given, Made], given: Given, ctx: Context) -> Outcome[Made]:
    """Run a stage, in the other processes of a launch too where it trains."""
    if ctx.check_room is not None:
        ctx.check_room(stage, given)
    if stage.trains and ctx.ranks is not None:
        ctx.ranks.summon(stage, given, ctx)
    return stage.run(given, ctx)


def run_stages(stages: Sequence[Stage[Any, Any]], given: Artifact, ctx: Context) -> tuple[Artifact, tuple[Record, ...]]:
    """Run stages in order; returns the last artifact and all records."""
    records: list[Record] = []
    made = given
    for stage in stages:
        made, record = run_stage(stage, made, ctx)
        records.append(record)
    return made, tuple(records)


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
