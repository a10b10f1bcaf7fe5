"""One recipe to sealed packages: the only place that knows the order of things."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.bounds.exhausted import exhausted
from converter.bounds.watch import NO_LIMITS, Doing, Limits
from converter.context import (
    NOTHING_RESOLVED,
    DeviceMap,
    Resolved,
    check_compressing,
    check_needs,
    check_options,
    check_room,
    context_of,
    held_to,
    judged_text,
    missing_runtimes,
    note_builtin_text,
    placement_of,
    read_text,
    refuse_idle_limit,
    resolved_table,
    with_threads,
)
from converter.errors import ExportError, GateFailed, NotProven
from converter.package.output_folder import Output
from converter.package.seal import seal_package
from converter.package.signature import SigningKey, read_signing_key
from converter.recipe import tried
from converter.reference import capture_reference
from converter.resources import fixed_threads
from converter.stage import SILENT, Context, OtherRanks, OutcomeCache, Progress, Record, Stage, run_stage
from converter.validate.checks import Evaluation, Status
from converter.validate.fastest import Candidate, keep_fastest
from converter.validate.owner import check_owner
from converter.validate.owner_writing import OwnerDrafts
from converter.validate.proof import ProofContext

if TYPE_CHECKING:
    from converter.recipe import ChosenPrecision, Recipe
    from converter.target import Target

CODES = {Status.FAIL: GateFailed.code, Status.NOT_RUN: NotProven.code}


@dataclass(frozen=True)
class TargetResult:
    """How one target came out. `folder` is where it is after the run (None: nothing was made)."""

    target: str
    precision: str
    status: Status
    exit_code: int = 0
    folder: str | None = None
    """Relative to the output folder."""
    size_bytes: int | None = None
    evaluation: Evaluation | None = None
    records: tuple[Record, ...] = ()
    error: str | None = None
    hint: str | None = None
    code: str | None = None
    """Of what went wrong: see docs/reference/errors.md."""


@dataclass(frozen=True)
class Result:
    """A whole run: everything that the report shows."""

    recipe: "Recipe"
    model: str
    task: str
    out: Path
    source_size_bytes: int
    targets: tuple[TargetResult, ...]
    compress_records: tuple[Record, ...] = ()
    compressed: Evaluation | None = None
    """The compressed PyTorch model against the source; None where the recipe compresses nothing."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        missed = GateFailed.exit_code if self.budgets_missed else 0
        return max((missed, *(t.exit_code for t in self.targets)))

    @property
    def budgets_missed(self) -> tuple[str, ...]:
        """What a stage could not keep to although it made the best it found, a sentence each."""
        found = ((r.stage, r.facts.get("budget_missed")) for r in self.compress_records)
        return tuple(f"{stage}: {what}" for stage, what in found if what)


def run_recipe(
    recipe: "Recipe",
    out: Path,
    *,
    force: bool = False,
    wait: bool = False,
    require_device: bool = False,
    sign: Path | None = None,
    require_licence: bool = False,
    progress: Progress = SILENT,
    resolved: Resolved = NOTHING_RESOLVED,
    limits: Limits = NO_LIMITS,
    last_word: Callable[[ExportError], None] = lambda _: None,
    cache: OutcomeCache | None = None,
    ranks: OtherRanks | None = None,
    device_map: DeviceMap | None = None,
) -> Result:
    """Run everything that `recipe` says and move the finished folder to `out`, see `converter.package.output_folder`.

    `resolved` is what a former run of this recipe found out; with it the same packages come out, byte for byte.
    `limits` are watched in the main thread only; `last_word` is told of a limit where the run had to be cut off.
    `cache`: what stages made in earlier runs is taken from there, and kept there. `ranks`: they train with this one.
    `device_map`: `auto` leaves weights of the source on disk for which there is no room in memory.

    Raises:
        ResourceLimit: memory or disk ran out, or a limit would be broken.
        LimitReached: a limit was broken.
        ExportError: where nothing could be made at all. A failing target does not raise: it is in the result.

    """
    missing = missing_runtimes(recipe)
    key = None if sign is None else read_signing_key(sign)
    known = with_threads(resolved, recipe)
    wishes = _Wishes(require_device, key, require_licence, known, limits, cache, ranks, device_map)
    doing = Doing(progress)
    with (
        Output(out, force=force, wait=wait, note=progress.note) as output,
        held_to(limits, doing, output, last_word),
        fixed_threads(1),  # but for what compresses: more would round otherwise, and show in the bytes
    ):
        return _run(recipe, output, missing, doing, wishes)


@dataclass(frozen=True)
class _Wishes:
    """What a run is told beside its recipe."""

    require_device: bool
    key: SigningKey | None
    require_licence: bool
    resolved: Resolved
    limits: Limits
    cache: OutcomeCache | None
    ranks: OtherRanks | None
    device_map: DeviceMap | None


def _run(
    recipe: "Recipe", output: Output, missing: dict[str, ExportError], progress: Progress, wishes: _Wishes
) -> Result:
    from converter.model_folder.save import save_model

    recipe, source = _loaded(recipe, output, progress, wishes)
    ctx, proof = _contexts(recipe, source, output, progress, wishes)
    note_builtin_text(recipe, ctx)
    compressed = source
    compress_records: tuple[Record, ...] = ()
    evaluation = None
    if recipe.compress:
        compressed, compress_records, evaluation = _compress(recipe, source, ctx, proof, wishes)
        if source.offloaded:
            check_room(compressed, wishes.limits)
        save_model(compressed, output.folder / "compressed")
    made = _Making(recipe, source, compressed, ctx, proof, output, compress_records, missing, wishes)
    targets = tuple(made.target(t, p) for t, p in zip(recipe.targets, recipe.precisions, strict=True))
    result = Result(
        recipe,
        source.provenance.id,
        source.task.name,
        output.out,
        source.size_bytes,
        targets,
        compress_records,
        evaluation,
        facts={"owner_library": proof.owner.facts()},
    )
    _write_reports(result, output.folder)
    output.commit()
    return result


def _loaded(recipe: "Recipe", output: Output, progress: Progress, wishes: _Wishes) -> "tuple[Recipe, TorchModel]":
    """Return the recipe with all precisions chosen and its source, held to what the run may take before and after."""
    from converter.model_folder.given import load_model, with_usual_precisions
    from converter.model_folder.licence import check_licence
    from converter.model_folder.mapped import map_weights

    to_load = wishes.resolved.to_load(recipe)
    placement = placement_of(to_load, wishes.device_map, wishes.limits, output.work)
    with progress.task("Loading the model"):
        source = wishes.resolved.of_source(load_model(to_load, progress, placement))
    check_licence(source, progress.note, required=wishes.require_licence)
    recipe = with_usual_precisions(recipe, source)
    check_options(recipe, source)
    check_needs(recipe, source, wishes.limits, output.root)
    for stage in recipe.compress[:1] if wishes.cache is None else ():
        check_compressing(stage, source, wishes.limits)
    if not source.offloaded:
        map_weights(source.module, output.work / "source.safetensors")
    return recipe, source


def _contexts(
    recipe: "Recipe", source: TorchModel, output: Output, progress: Progress, wishes: _Wishes
) -> tuple[Context, ProofContext]:
    """Ask the source, and hold its answers to the library of its owner, before anything is made."""
    text = read_text(recipe, source, progress)
    refuse_idle_limit(recipe, text.given.judged)
    drafts = OwnerDrafts(source, progress) if source.cache is not None and not source.offloaded else None
    reference = capture_reference(source, text.probes, progress, text.scored, text.given.notes, drafts)
    reference = replace(reference, text=judged_text(recipe, text))
    owner = check_owner(source, reference, progress, recipe.prompt, recipe.max_length, drafts)
    held_out = tuple(p.example for p in (*reference.probes, *reference.scored))
    ctx = context_of(recipe, source, text, output.work, progress, held_out=held_out, resolved=wishes.resolved)
    ctx = replace(ctx, resume=output.resume, cache=wishes.cache, ranks=wishes.ranks)
    return ctx, ProofContext(output.work, reference, owner, progress)


def _compress(
    recipe: "Recipe", source: TorchModel, ctx: Context, proof: ProofContext, wishes: _Wishes
) -> tuple[TorchModel, tuple[Record, ...], Evaluation]:
    from converter.precision import Limits
    from converter.reference import torch_run
    from converter.validate.compare import compare
    from converter.validate.vocabulary import as_seen_by

    records = []
    model = source
    held = replace(ctx, check_room=lambda stage, given: check_compressing(stage, given, wishes.limits))
    with fixed_threads(ctx.threads or 1):
        for stage in recipe.compress:
            model, record = run_stage(stage, model, held)
            records.append(record)
    shown, reference = as_seen_by(model, source, proof.reference, None, proof.progress)
    evaluation = compare(shown, reference, torch_run(model), Limits(), proof.progress, "Comparing the compressed model")
    return model, tuple(records), evaluation


@dataclass
class _Making:
    """Makes one target after the other; equal stages run once."""

    recipe: "Recipe"
    source: TorchModel
    compressed: TorchModel
    ctx: Context
    proof: ProofContext
    output: Output
    compress_records: tuple[Record, ...]
    missing: dict[str, ExportError]
    wishes: _Wishes
    made: dict[tuple[Stage[Any, Any], ...], tuple[Artifact, Record]] = field(default_factory=dict)

    def target(self, target: "Target", precision: "ChosenPrecision") -> TargetResult:
        """Make, prove and seal one target; its failure is its own."""
        try:
            return self._target(target, precision)
        except ExportError as raised:
            error = exhausted(raised, self.ctx.progress.stage if isinstance(self.ctx.progress, Doing) else "") or raised
            # What is half made has no manifest and no verdict: it must not lie where packages lie.
            for half in (target.name, *(f"{target.name}.{i}" for i in range(len(target.candidates())))):
                shutil.rmtree(self.output.folder / half, ignore_errors=True)
            return TargetResult(
                target.name,
                str(precision),
                Status.FAIL,
                error.exit_code,
                error=str(error),
                hint=error.hint,
                code=error.full_code,
            )

    def _target(self, target: "Target", precision: "ChosenPrecision") -> TargetResult:
        if target.name in self.missing:
            raise self.missing[target.name]
        choices = tried(target, precision)
        if len(choices) == 1:
            made = self._make(target, choices[0], target.name)
            return self._judge(target, made)
        return self._judge(target, self._fastest(target, choices))

    def _make(self, target: "Target", precision: "ChosenPrecision", folder_name: str) -> Candidate:
        from converter.validate.package_check import evaluate_package

        stages = target.stages(precision.name, precision.options, self.compressed)
        artifact, records = self._stages(stages)
        folder = self.output.folder / folder_name
        folder.mkdir()
        bundle = target.emit(artifact, self.compressed, folder, self.ctx)
        bundle.verify()
        evaluation = evaluate_package(
            target,
            bundle,
            self.source,
            self.recipe.limits_for(target, precision.name),
            self._proof_of(target, stages),
            require_device=self.wishes.require_device,
            steps=self._steps(records),
        )
        return Candidate(precision, bundle, evaluation, records)

    def _proof_of(self, target: "Target", stages: Sequence[Stage[Any, Any]]) -> ProofContext:
        """Return the proof with what is known of the text for this package: only some stages learn from text."""
        reference = self.proof.reference
        steps: tuple[Any, ...] = (*self.recipe.compress, *stages)
        learned = any(s.needs_text and getattr(s, "texts", 1) for s in steps)
        text = replace(
            reference.text,
            calibrated=reference.text.calibrated if learned else frozenset(),
            drop_asked=self.recipe.asks_drop(target),
        )
        return replace(self.proof, reference=replace(reference, text=text))

    def _fastest(self, target: "Target", choices: "Sequence[ChosenPrecision]") -> Candidate:
        """Make all candidates, time them together, and keep the fastest of those with the best verdict."""
        made: list[Candidate] = []
        failed: dict[str, ExportError] = {}
        for i, precision in enumerate(choices):
            try:
                made.append(self._make(target, precision, f"{target.name}.{i}"))
            except ExportError as error:
                shutil.rmtree(self.output.folder / f"{target.name}.{i}", ignore_errors=True)
                failed[str(precision)] = error
        if not made:
            raise next(iter(failed.values()))
        chosen = keep_fastest(target, made, {name: str(error) for name, error in failed.items()}, self.proof)
        for one in made:
            if one.bundle.folder != chosen.bundle.folder:
                shutil.rmtree(one.bundle.folder)
        folder = self.output.folder / target.name
        chosen.bundle.folder.rename(folder)
        return replace(chosen, bundle=replace(chosen.bundle, folder=folder))

    def _judge(self, target: "Target", made: Candidate) -> TargetResult:
        bundle, evaluation = made.bundle, made.evaluation
        seal_package(
            target,
            made.precision,
            bundle,
            evaluation,
            (*self.compress_records, *made.records),
            self.recipe,
            self.source,
            self.proof.reference,
            resolved_table(self.ctx, self.recipe),
        )
        folder, status = bundle.folder, evaluation.status
        if status is Status.FAIL:
            # Kept for study under a name that no loader looks for, and without the manifest that makes a package.
            folder = bundle.folder.with_name(target.name + ".rejected")
            bundle.folder.rename(folder)
            (folder / "manifest.json").rename(folder / "rejected.json")
        if status is Status.PASS and self.wishes.key is not None:
            self.wishes.key.sign(folder)
        # A package that could not be proven is sealed and says so, but the run did not do what it promises.
        return TargetResult(
            target.name,
            str(made.precision),
            status,
            0 if status is Status.PASS else GateFailed.exit_code,
            folder.name,
            replace(bundle, folder=folder).size_bytes,
            evaluation,
            made.records,
            error=evaluation.reason(),
            hint=evaluation.next_step(),
            code=CODES.get(status),
        )

    def _steps(self, records: Sequence[Record]) -> list[tuple[str, Artifact]]:
        """Return what each step made, by name, so that a failed gate can be followed back."""
        compressed = [("compression", self.compressed)] if self.compress_records else []
        return [*compressed, *((r.stage, artifact) for artifact, r in self.made.values() if r in records)]

    def _stages(self, stages: Sequence[Stage[Any, Any]]) -> tuple[Artifact, tuple[Record, ...]]:
        given: Artifact = self.compressed
        records = []
        for i in range(len(stages)):
            key = tuple(stages[: i + 1])
            if key not in self.made:
                self.made[key] = run_stage(stages[i], given, self.ctx)
            given, record = self.made[key]
            records.append(record)
        return given, tuple(records)


def _write_reports(result: Result, folder: Path) -> None:
    from converter.recipe import save_recipe
    from converter.report.write import write_reports

    save_recipe(result.recipe, folder / "recipe.toml")
    write_reports(result, folder)
