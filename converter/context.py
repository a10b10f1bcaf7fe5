"""What a recipe gives its stages to work from: its text, split once, what it needs, and the limits it is held to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from converter.bounds.exhausted import exhausted
from converter.bounds.watch import Doing, Limits, check_estimate, memory_bytes, watched
from converter.errors import ExportError, ResourceLimit
from converter.recipe import aim_of, tried
from converter.resources import require_space
from converter.stage import Context, Progress

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.model_folder.given import GivenText
    from converter.recipe import Recipe


@dataclass(frozen=True)
class RecipeText:
    """The user's text, completed with built-in text."""

    given: "GivenText"
    probes: tuple["Example", ...]
    """What the source and its packages are asked, one by one."""
    calibration: tuple["Example", ...]
    """What stages measure and learn on: never the evaluation text, which would tune on the test."""


def read_text(recipe: "Recipe", source: "TorchModel", progress: Progress) -> RecipeText:
    """Read the recipe's text files, and choose the probes and the calibration text.

    Raises:
        DataError: a file or a row cannot be used; says which and why.

    """
    from converter.data.probes import builtin_examples, calibration_texts, choose_probes
    from converter.model_folder.given import read_given

    given = read_given(recipe, source, progress)
    builtin = builtin_examples(source)
    return RecipeText(
        given,
        choose_probes(given.judged, builtin, min(recipe.n_probes, source.task.most_texts or recipe.n_probes)),
        calibration_texts(given.calibration, builtin, len(given.calibration) + len(builtin)),
    )


def context_of(
    recipe: "Recipe",
    source: "TorchModel",
    text: RecipeText,
    work: Path,
    progress: Progress,
    *,
    held_out: tuple["Example", ...] = (),
    resume: Path | None = None,
) -> Context:
    """Return the context of the recipe's stages; `work` is their scratch folder."""
    return Context(
        work=work,
        seed=recipe.seed,
        calibration=text.calibration,
        calibration_is_builtin=not text.given.calibration,
        held_out=held_out,
        teacher=source,
        progress=progress,
        aim=aim_of(recipe),
        resume=resume,
    )


def check_needs(recipe: "Recipe", source: "TorchModel", limits: Limits, work: Path) -> None:
    """Hold what a run will take to what it may, and to the disk that holds `work`, before anything is made.

    Raises:
        ResourceLimit: says how much more would be needed.

    """
    from converter.forecast import COPIES_IN_MEMORY, COPIES_ON_DISK, forecast_of

    forecast, weights = forecast_of(source), source.size_bytes
    packages = sum(
        forecast.bytes(t.menu()[tried(t, p)[0].name].bytes_a_weight)
        for t, p in zip(recipe.targets, recipe.precisions, strict=True)
    )
    # The libraries and the source are loaded by now.
    memory = memory_bytes() + int((COPIES_IN_MEMORY - 1) * weights)
    disk = packages + int(COPIES_ON_DISK * weights)
    check_estimate(limits, memory=memory, disk=disk)
    require_space(work, disk)


def missing_runtimes(recipe: "Recipe") -> dict[str, ExportError]:
    """Return what each target lacks; raise at once where no target at all can be made."""
    missing: dict[str, ExportError] = {}
    for target in recipe.targets:
        try:
            target.check_runtime()
        except ExportError as error:
            missing[target.name] = error
    if len(missing) == len(recipe.targets):
        raise next(iter(missing.values()))
    return missing


def note_builtin_text(recipe: "Recipe", ctx: Context) -> None:
    """Say that what is measured on text is measured on ours: real text of the user's own serves better."""
    stages = [s.name for s in recipe.compress if s.needs_text and s.name.startswith("prune.")]
    if stages and ctx.calibration_is_builtin:
        ctx.progress.note(
            f"{', '.join(stages)}: using built-in text; --calibration FILE with your own text gives better results"
        )


class Place(Protocol):
    """Where a run writes; see `converter.package.output_folder.Output`."""

    out: Path

    @property
    def root(self) -> Path: ...
    def abandon(self) -> None: ...


@contextmanager
def held_to(limits: Limits, doing: Doing, place: Place, last_word: Callable[[ExportError], None]) -> Iterator[None]:
    """Hold what is done to `limits`, and let what runs out be told as that, with the stage at which it did.

    Raises:
        ResourceLimit: memory or disk ran out.
        LimitReached: a limit was broken.

    """

    def give_up(error: ResourceLimit) -> None:
        last_word(error)
        place.abandon()

    with watched(limits, stage=lambda: doing.stage, folders=lambda: [place.root], give_up=give_up):
        try:
            yield
        except Exception as error:
            limit = exhausted(error, doing.stage, place.out)
            if limit is None or limit is error:
                raise
            raise limit from error
