"""Everything that a package is tested for before it is sealed."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from converter.errors import RuntimeMissing
from converter.graphs import Run
from converter.reference import Reference, torch_run
from converter.resources import LARGE_BYTES, made_beside, release_memory
from converter.validate.answers import RunFailed
from converter.validate.checks import Check, Evaluation, Status
from converter.validate.compare import NOTHING, Comparison, compare_answers
from converter.validate.contents import check_as_used, check_rounding, compare_weights
from converter.validate.explain import explain
from converter.validate.interface import check_inputs, check_outputs, check_tokenizer, shipped_task
from converter.validate.speed import measure_speed, not_worth_it, time_lengths
from converter.validate.stability import check_stability
from converter.validate.texts import text_facts
from converter.validate.vocabulary import as_seen_by, vocabulary_facts
from converter.validate.weights import parts_of
from converter.validate.writing_speed import writing_speed
from converter.validate.zeros import zeros_facts

if TYPE_CHECKING:
    from converter.artifact import Artifact, Bundle, TorchModel
    from converter.precision import Limits
    from converter.target import Runner, Target
    from converter.validate.proof import ProofContext

MOST_RACED_BYTES = 256_000_000
"""Weights of a model that writes text whose float32 file is timed too."""


def evaluate_package(
    target: "Target",
    bundle: "Bundle",
    source: "TorchModel",
    limits: "Limits",
    proof: "ProofContext",
    *,
    require_device: bool,
    steps: "Sequence[tuple[str, Artifact]]" = (),
) -> Evaluation:
    """Open the shipped files in their runtime and judge them against the source.

    `steps` are the artifacts between source and package, by the name of what made them: where the gate fails, they
    are run to find the step that drifted.

    Raises:
        RuntimeMissing: `require_device`, and the package did not run on its device.

    """
    device = _device_check(target, bundle, require_device=require_device)
    opened = target.open_mapped if bundle.source.offloaded else target.open
    runner = opened(bundle.folder, bundle.source.specs)
    shown, reference = as_seen_by(bundle.source, source, proof.reference, runner.max_length, proof.progress)
    interface_checks = [
        check_inputs(runner, shown, target.input_dtype),
        check_outputs(runner, shown, reference),
        check_tokenizer(bundle.folder, shown, reference.probes),
        *device,
        proof.owner.check,
    ]
    facts = _facts(runner, bundle, source, reference) | text_facts(shown, reference)
    facts |= vocabulary_facts(bundle.source, source, proof.reference, reference)
    facts |= zeros_facts(bundle, target.product_weights(bundle))
    if any(c.status is Status.FAIL for c in interface_checks[:2]):
        return unjudged(interface_checks, reference, facts)
    large = source.size_bytes > LARGE_BYTES
    try:
        # Neither needs the other, and nothing is timed meanwhile.
        parts = None if large else parts_of(bundle.source, reference.probes)
        with made_beside(partial(compare_weights, target, bundle, reference, steps, parts), later=large) as weights:
            made, answers = _judge(target, bundle, runner, shown, reference, limits, proof)
            release_memory(cycles=large)
            used = check_as_used(bundle, shown, reference, runner, answers, proof, weights)
            found_weights = weights()
        made = _with_speed(made, runner, shown, reference, proof, steps)
    except RunFailed as error:
        return unjudged([Check("runs", Status.FAIL, detail=str(error)), *interface_checks], reference, facts)
    release_memory(cycles=large)
    found_weights = check_rounding(bundle, shown, reference, runner, answers, proof, found_weights)
    interface_checks, facts = [*interface_checks, *used, *found_weights.checks], facts | found_weights.facts
    own, found = target.own_checks(bundle, shown, reference, runner, proof)
    idle = not_worth_it(facts["size_ratio"], made.milliseconds)
    facts |= {"not_worth_it": idle} if idle else {}
    made = replace(made, checks=(*made.checks, *interface_checks, *own), facts={**made.facts, **facts, **found})
    return _explained(made, shown, reference, steps, proof) if made.status is Status.FAIL else made


def unjudged(checks: Sequence[Check], reference: Reference, facts: dict[str, Any]) -> Evaluation:
    """Return the evaluation of a package that could not be compared at all."""
    return Evaluation(
        checks=tuple(checks),
        deviations=(),
        agreement=NOTHING,
        metric={},
        source_metric=reference.metric,
        n_probes=len(reference.judged),
        facts=facts,
    )


def _judge(
    target: "Target",
    bundle: "Bundle",
    runner: "Runner",
    source: "TorchModel",
    reference: Reference,
    limits: "Limits",
    proof: "ProofContext",
) -> tuple[Evaluation, Comparison]:
    """Judge what the package answers, by itself, beside other texts, and where it writes on its own."""
    title = f"Proving {target.name}"
    shipped = None if source.cache is None else shipped_task(source, bundle.folder)
    made = compare_answers(source, reference, runner.run, limits, proof.progress, title, shipped)
    large = source.size_bytes > LARGE_BYTES
    release_memory(cycles=large)
    checks, facts = list(made.evaluation.checks), dict(made.evaluation.facts)
    sound = [j for i, j in enumerate(made.answers.judged) if i not in made.answers.faults]
    if sound:
        scales = reference.output_range
        check, variations = check_stability(source, sound, runner, scales, limits, proof.progress, bundle.source)
        checks.append(check)
        facts["stability"] = [asdict(v) for v in variations]
        release_memory(cycles=large)
    if source.cache is not None:
        from converter.validate.generation import generation_checks

        written, told = generation_checks(
            source, reference, made.answers.judged, runner.run, shipped, limits, proof.progress, made.evaluation.metric
        )
        checks, facts = [*checks, *written], facts | told
    return replace(made.evaluation, checks=tuple(checks), facts=facts), made


def _with_speed(
    made: Evaluation,
    runner: "Runner",
    source: "TorchModel",
    reference: Reference,
    proof: "ProofContext",
    steps: "Sequence[tuple[str, Artifact]]",
) -> Evaluation:
    """Add how fast the package is: timed with nothing beside it."""
    large, facts = source.size_bytes > LARGE_BYTES, dict(made.facts)
    release_memory(cycles=large)
    # Opened here, as it holds all weights once more, and packed.
    speed = measure_speed(source, reference.probes, runner.run, proof.progress, _float32_run(source, steps))
    release_memory(cycles=large)
    facts["speed"] = speed.facts
    if source.cache is not None:
        runs: dict[str, Run] = {"package": runner.run, "source": torch_run(source)}
        facts["speed"] |= {"writing": writing_speed(source, reference.probes, runs)}
    if runner.lengths:
        each = time_lengths(source, reference.probes, runner.run, runner.lengths, proof.progress)
        facts["speed"] |= {"ms_by_signature": {str(n): ms for n, ms in each.items()}}
    return replace(made, facts=facts, milliseconds=speed.milliseconds)


def _float32_run(source: "TorchModel", steps: "Sequence[tuple[str, Artifact]]") -> Run | None:
    """Return how the last float32 ONNX file before the package runs: what an int8 or fp16 one has to beat.

    None where there is no such file, or where it is the package itself; and where the proof would need more memory for
    it than for all else: with weights on disk, and for a large model that writes text. `bench` has that figure.
    """
    if source.offloaded or (source.cache is not None and source.size_bytes > MOST_RACED_BYTES):
        return None
    files = [made for _, made in steps if made.file_precision is not None]
    plain = [made for made in files if made.file_precision == "float32"]
    return plain[-1].runs() if plain and len(plain) < len(files) else None


def _device_check(target: "Target", bundle: "Bundle", *, require_device: bool) -> list[Check]:
    found = target.device_check(bundle.folder, bundle.source.specs)
    if found is None:
        return []
    if found.ran:
        return [Check("device", Status.PASS if found.passed else Status.FAIL, detail=found.detail)]
    if require_device:
        raise RuntimeMissing(
            f"{target.name} did not run on its device: {found.detail}",
            hint="run it on a machine with the device; without --require-device the check is reported as NOT_RUN",
        )
    return [Check("device", Status.NOT_RUN, detail=found.detail)]


def _facts(runner: "Runner", bundle: "Bundle", source: "TorchModel", reference: Reference) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "runtime": runner.runtime,
        "size_ratio": round(bundle.size_bytes / source.size_bytes, 4),
        "longest_probe_tokens": max((p.encoding.length for p in reference.probes), default=0),
    }
    if runner.max_length is not None and runner.max_length < source.max_length:
        facts["max_length"] = runner.max_length
        facts["note"] = (
            f"the package takes {runner.max_length} tokens, the model {source.max_length}: "
            f"both were compared on texts truncated to {runner.max_length}"
        )
    return facts


def _explained(
    made: Evaluation,
    source: "TorchModel",
    reference: Reference,
    steps: "Sequence[tuple[str, Artifact]]",
    proof: "ProofContext",
) -> Evaluation:
    """Say, in the first failed check about answers, which step drifted."""
    about = {"max_error", "mean_error", "cosine", "agreement", "metric", "finite"}
    first = next((i for i, c in enumerate(made.checks) if c.status is Status.FAIL and c.name in about), None)
    if first is None or not steps:
        return made
    boundaries, sentence = explain(source, reference, made, steps, proof.progress)
    checks = list(made.checks)
    if sentence:
        checks[first] = replace(checks[first], detail=f"{checks[first].detail}; {sentence}")
    return replace(made, checks=tuple(checks), facts={**made.facts, "boundaries": boundaries})
