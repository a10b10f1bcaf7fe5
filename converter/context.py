"""What a recipe gives its stages to work from: its text, split once, what it needs, and the limits it is held to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from converter.bounds.exhausted import exhausted
from converter.bounds.watch import (
    Doing,
    Limits,
    check_address_space,
    check_available,
    check_estimate,
    memory_bytes,
    watched,
)
from converter.errors import ExportError, ResourceLimit, UsageError
from converter.examples import JudgedText, Origin, text_key
from converter.model_folder.samples import is_sample
from converter.recipe import aim_of, tried
from converter.resources import release_memory, require_space
from converter.stage import Context, Progress, Stage, check_stage
from converter.target import Aim, Target

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.forecast import MemoryNeed
    from converter.model_folder.given import GivenText
    from converter.model_folder.offload import Placement
    from converter.recipe import Recipe


DeviceMap = Literal["auto"]
_SAVED_WHOLE = ("what stages leave is saved with all weights in memory", "--prune")


def placement_of(recipe: "Recipe", device_map: DeviceMap | None, limits: Limits, work: Path) -> "Placement | None":
    """Return where the weights of the source may lie; None: all in memory. `work` is the run's own scratch folder.

    Raises:
        ResourceLimit: they are to lie in memory, and do not fit.

    """
    from converter.model_folder.offload import Placement

    if device_map is None:
        check_loading(recipe, limits)
        return None
    return Placement(work / "offload", limits.memory)


@dataclass(frozen=True)
class Resolved:
    """What a run found out for itself: with it, the same recipe gives the same bytes."""

    threads: int | None = None
    """Of what compresses the model; None: nothing does."""
    aim: Aim | None = None
    """What budgets of time and size are those of; None: the recipe's first target."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Tables of times, by what was timed."""
    known_as: Mapping[str, Any] = field(default_factory=dict)
    """Id, revision and licence of the source, where it is read from another folder now."""
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the source that it was; empty: whatever is given."""

    def to_load(self, recipe: "Recipe") -> "Recipe":
        """Return the recipe at the revision that its model had: an id on the Hub leads to the newest otherwise."""
        revision = self.known_as.get("revision")
        return replace(recipe, revision=revision) if revision and not Path(recipe.model).is_dir() else recipe

    def of_source(self, source: "TorchModel") -> "TorchModel":
        """Return the source under the name that it had.

        Raises:
            UsageError: it is another model.

        """
        found = source.provenance.weights_sha256
        if self.weights_sha256 and dict(self.weights_sha256) != found:
            other = sorted(n for n in {*self.weights_sha256, *found} if self.weights_sha256.get(n) != found.get(n))
            raise UsageError(
                f"this is another model than the one that was exported: {', '.join(other[:3])} differs",
                where=source.provenance.id,
                hint="give the folder of the source, or its id and revision",
            )
        return replace(source, provenance=replace(source.provenance, **self.known_as)) if self.known_as else source


NOTHING_RESOLVED = Resolved()


def with_threads(resolved: Resolved, recipe: "Recipe") -> Resolved:
    """Return it with the number of threads that compress the model: the recipe's, a former run's, or PyTorch's own."""
    if not recipe.compress:
        return resolved
    import torch

    return replace(resolved, threads=recipe.threads or resolved.threads or torch.get_num_threads())


def resolved_table(ctx: Context, recipe: "Recipe") -> dict[str, Any]:
    """Return what the manifest keeps of what a run found out: all that `Resolved` has, where a stage could use it."""
    if not recipe.compress:
        return {"measured": {}}
    aim = {"target": ctx.aim.target, "precision": ctx.aim.precision.name} if ctx.aim else None
    return {"threads": ctx.threads, "aim": aim, "measured": dict(ctx.measured)}


@dataclass(frozen=True)
class RecipeText:
    """The user's text, completed with built-in text."""

    given: "GivenText"
    probes: tuple["Example", ...]
    """What the source and its packages are asked, one by one."""
    calibration: tuple["Example", ...]
    """What stages measure and learn on: never the evaluation text, which would tune on the test."""
    scored: tuple["Example", ...]
    """What a score is of: the whole evaluation text, else the probes as their file has them."""


def read_text(recipe: "Recipe", source: "TorchModel", progress: Progress) -> RecipeText:
    """Read the recipe's text files, and choose the probes and the calibration text.

    Raises:
        DataError: a file or a row cannot be used; says which and why.

    """
    from converter.data.probes import builtin_examples, calibration_texts, choose_probes
    from converter.model_folder.given import most_compared, read_given

    given = read_given(recipe, source, progress)
    builtin = builtin_examples(source)
    chosen = choose_probes(given.judged, builtin, most_compared(recipe, source.task))
    return RecipeText(
        given,
        source.task.asked_of(chosen),
        calibration_texts(given.calibration, builtin, len(given.calibration) + len(builtin)),
        given.evaluation or chosen,
    )


def judged_text(recipe: "Recipe", text: RecipeText) -> JudgedText:
    """Say whose text packages are judged on. A bundled sample's own evaluation text is no text of the user's."""
    given = recipe.evaluation or recipe.calibration
    own = given is not None and not is_sample(str(given))
    origin = Origin.BUILT_IN if not own else Origin.OWN if recipe.evaluation else Origin.CALIBRATION
    return JudgedText(
        origin,
        recipe.confidence,
        calibrated=frozenset(text_key(e) for e in text.calibration),
        slices=recipe.slices,
    )


def context_of(
    recipe: "Recipe",
    source: "TorchModel",
    text: RecipeText,
    work: Path,
    progress: Progress,
    *,
    held_out: tuple["Example", ...] = (),
    resolved: Resolved = NOTHING_RESOLVED,
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
        aim=resolved.aim or aim_of(recipe),
        threads=resolved.threads,
        measured=dict(resolved.measured),
    )


def check_loading(recipe: "Recipe", limits: Limits) -> None:
    """Hold what loading the model takes to what the run may take and to what the machine has, before it is loaded.

    Raises:
        ResourceLimit: its weights in float32 do not fit.

    """
    from converter.model_folder.needs import loading_of

    need = loading_of(Path(recipe.model))
    check_estimate(limits, memory=memory_bytes() + need.bytes)
    check_available(need.held)


def check_needs(recipe: "Recipe", source: "TorchModel", limits: Limits, work: Path) -> None:
    """Hold what a run will take to what it may, and to the disk that holds `work`, before anything is made.

    Raises:
        ResourceLimit: says how much more would be needed.

    """
    from converter.forecast import COPIES_IN_MEMORY, LIBRARIES_MAP, disk_of_export
    from converter.model_folder.mapped import bytes_held, bytes_to_map

    if source.offloaded:
        _check_left(recipe, source, limits, work)
        return
    weights = source.size_bytes
    # The libraries and the source are loaded by now.
    check_address_space(LIBRARIES_MAP + int((COPIES_IN_MEMORY - 1) * weights))
    needs = memory_of(recipe, source)
    peak, held = max(needs, key=lambda need: need.bytes), max(needs, key=lambda need: need.held)
    made = [(name, stored) for _, name, stored in _made_by(recipe)]
    disk = disk_of_export(source, made) + bytes_to_map(source.module)
    check_estimate(limits, memory=memory_bytes() + max(0, peak.bytes - weights), disk=disk, part=peak.part)
    # What the source holds is taken already. A checkpoint in float32 counts as pages of files, even if it was changed.
    taken = bytes_held(source.module) if source.provenance.dtype != "float32" else 0
    check_available(held.held - taken, part=held.part)
    require_space(work, disk)


def _check_left(recipe: "Recipe", source: "TorchModel", limits: Limits, work: Path) -> None:
    """Hold an export of what stages leave of a source on disk to what it may take: a stage may take hours."""
    from converter.forecast import forecast_of, needs_by_pieces, needs_of_rest
    from converter.model_folder.offload import bytes_to_store

    left, written, n_done = forecast_of(source), 0 if recipe.compress else bytes_to_store(source.module), 0
    for stage in recipe.compress:  # no forecast up to the one that brings weights into memory asks for text
        left, n_done = stage.forecast(left, source, Context(work=work)), n_done + 1
        if not stage.leaves_on_disk:
            break
        written += left.matrices * 4
    # What further stages make of it is known when they run: they hold it, and what they make.
    sizes = [left.bytes(stored) for _, _, stored in _made_by(recipe)] if n_done == len(recipe.compress) else []
    release_memory()  # what was read of the checkpoint counts until then
    need, disk = needs_of_rest(left.bytes(4), sizes) if recipe.compress else needs_by_pieces(source, sizes)
    check_estimate(limits, memory=memory_bytes() + need.bytes, disk=written + disk, part=need.part)
    check_available(need.bytes, part=need.part)
    require_space(work, written + disk)


def check_room(model: "TorchModel", limits: Limits) -> None:
    """Hold what an export of a model that is in memory takes to what it may and to what the machine has.

    Raises:
        ResourceLimit: says how much more would be needed.

    """
    from converter.forecast import COPIES_IN_MEMORY

    release_memory()  # what was read of the checkpoint counts until then
    more = int((COPIES_IN_MEMORY - 1) * model.size_bytes)
    check_estimate(limits, memory=memory_bytes() + more)
    check_available(more)


def check_compressing(stage: "Stage[Any, Any]", model: "TorchModel", limits: Limits) -> None:
    """Hold what `stage` takes beside a model that is in memory to what it may and to what the machine has.

    Raises:
        ResourceLimit: says how much more would be needed.

    """
    if model.offloaded:  # it holds what it works on alone, or leaves a model that fits
        return
    release_memory()  # what was read of the checkpoint counts until then
    more = stage.beside(model)
    check_estimate(limits, memory=memory_bytes() + more, part=stage.name)
    check_available(more, part=stage.name)


def memory_of(recipe: "Recipe", source: "TorchModel") -> "list[MemoryNeed]":
    """Return what each part of a run takes of memory, beside the libraries."""
    from converter.forecast import memory_of_export

    made = _made_by(recipe)
    onnx = all(target.runtime_module == "onnxruntime" for target, _, _ in made)
    return memory_of_export(source, [(name, stored) for _, name, stored in made], onnx=onnx)


def _made_by(recipe: "Recipe") -> "list[tuple[Target, str, float]]":
    """Return target, precision and bytes a weight of each package of a recipe, candidates among them."""
    found = [(t, p.name) for t, named in zip(recipe.targets, recipe.precisions, strict=True) for p in tried(t, named)]
    return [(t, name, t.menu()[name].bytes_a_weight) for t, name in found]


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


def refuse_idle_limit(recipe: "Recipe", judged: "Sequence[Example]") -> None:
    """Refuse a limit of the metric that was asked for where no text has a label: it would never be looked at."""
    asked = any(limits.max_drop is not None for limits in recipe.limits.values())
    if asked and all(e.label is None for e in judged):
        found = recipe.evaluation or recipe.calibration
        raise UsageError(
            "--max-drop needs labelled text" + (f", and {found} has no label" if found else ", and there is no --eval"),
            where="max_drop",
            hint="give --eval a file with labels, or leave --max-drop out",
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


def _check_offloaded(recipe: "Recipe", source: "TorchModel") -> None:
    """Refuse what needs weights in memory of a source that is larger than it: a stage must first make it smaller."""
    if not source.offloaded:
        return
    for stage in recipe.compress:
        if needed := stage.needs_whole():
            why, where = needed, stage.name
            break
        if not stage.leaves_on_disk:
            return
    else:
        whole = [t.name for t in recipe.targets if source.cache is not None or not t.by_pieces]
        if not whole and not recipe.compress:
            return
        why, where = ("an export of it holds all weights in memory", whole[0]) if whole else _SAVED_WHOLE
    raise UsageError(
        f"{why}, and the source is larger than the memory that it was given: its weights are on disk",
        where=where,
        hint="begin with prune.layers:keep=N, which leaves a model that fits; or allow more with --max-memory",
    )


def check_options(recipe: "Recipe", source: "TorchModel") -> None:
    """Raise for what a target or a stage would refuse: now, not after hours of distillation."""
    _check_offloaded(recipe, source)
    for stage in recipe.compress:
        check_stage(stage, source, has_text=recipe.calibration is not None)
    for target, precision in zip(recipe.targets, recipe.precisions, strict=True):
        choices, refused = tried(target, precision), list[UsageError]()
        for one in choices:
            try:
                if source.cache is not None:
                    target.refuse_writer(one.name, source.task.name)
                stages = target.stages(one.name, one.options, source)
            except UsageError as error:
                refused.append(error)
                continue
            # What one of several candidates refuses is told beside the others that were made.
            for target_stage in stages if len(choices) == 1 else ():
                check_stage(target_stage, source, has_text=recipe.calibration is not None)
        if len(refused) == len(choices):
            raise refused[0]
