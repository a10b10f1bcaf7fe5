"""What texts alone do not show of a package: how its user opens it, its last positions, its weights, its noise."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from converter.reference import Reference
from converter.resources import LARGE_BYTES
from converter.validate.as_called import check_as_called
from converter.validate.checks import Check, Status
from converter.validate.full_length import Answered, check_full_lengths
from converter.validate.noise import FLOAT, check_noise
from converter.validate.weights import WEIGHTS, Compared, Parts, check_weights, parts_of

if TYPE_CHECKING:
    from converter.artifact import Artifact, Bundle, TorchModel
    from converter.target import Runner, Target
    from converter.task import Judged
    from converter.validate.compare import Comparison
    from converter.validate.proof import ProofContext
    from converter.validate.weights_match import Block


def check_as_used(
    bundle: "Bundle",
    source: "TorchModel",
    reference: Reference,
    runner: "Runner",
    made: "Comparison",
    proof: "ProofContext",
    weights: Callable[[], Compared],
) -> list[Check]:
    """Open the package as its user does, and fill it; `source` and `reference` are as the package sees them.

    `weights` waits for what `compare_weights` finds; only a file that is far off at some length is asked for its bits.
    """
    checks = [check_as_called(bundle.folder, bundle.source, source, reference, runner, made.answers.judged)]
    mean = max((d.mean_error for d in made.evaluation.deviations), default=0.0)
    known = Answered(made.answers.judged, _same(bundle, source, reference), proof.asked)
    full = check_full_lengths(
        bundle.source, reference, runner, mean, proof.progress, known, lambda: _bits_of(weights())
    )
    return checks if full is None else [*checks, full]


def check_rounding(
    bundle: "Bundle",
    source: "TorchModel",
    reference: Reference,
    runner: "Runner",
    made: "Comparison",
    proof: "ProofContext",
    weights: Compared,
) -> Compared:
    """Return `weights`, what `compare_weights` found, and beside it what rounding the model costs: checks and facts."""
    found, facts, own = weights
    in_blocks = bool(found) and facts[WEIGHTS]["in_blocks"]
    # Of a model that writes, ranges of activations that were fixed beforehand cost more than any fault that is looked
    # for here; of a large one, a second copy of its weights would have to lie in memory.
    if found and (source.cache is None or (in_blocks and bundle.source.size_bytes <= LARGE_BYTES)):
        longest = runner.max_length or bundle.source.max_length
        model = replace(bundle.source, max_length=min(longest, bundle.source.max_length))
        noise, told = check_noise(
            model,
            made.answers.judged,
            runner.run,
            _bits_of(weights),
            proof.progress,
            same=_same(bundle, source, reference) or None,
            asked=proof.asked,
            in_blocks=in_blocks and source.cache is not None,
            own=own if source.cache is not None else None,
        )
        found, facts = [*found, *noise], facts | told
    return Compared(found, facts)


def _same(bundle: "Bundle", source: "TorchModel", reference: Reference) -> "Sequence[Judged]":
    """Return what the model that the package was made of answered, where that is the source itself."""
    return reference.judged if bundle.source.module is source.module else ()


def _bits_of(weights: Compared) -> int:
    return int(weights.facts[WEIGHTS]["bits"]) if weights.checks else FLOAT


def compare_weights(
    target: "Target",
    bundle: "Bundle",
    reference: Reference,
    steps: "Sequence[tuple[str, Artifact]]",
    parts: Parts | None = None,
) -> Compared:
    """Compare the weights of the package's files, and of each model that it ships beside them, with the model's.

    `parts` are those of the model, where something else runs it meanwhile.
    """
    parts = parts or parts_of(bundle.source, reference.probes)
    files = [bundle.folder / f for f in dict.fromkeys(bundle.files.values())]
    before = [s for file in _float_files(steps) for s in target.parameters(file, vectors_only=True)]
    stored = chain.from_iterable(map(target.parameters, files))
    seen: dict[bytes, tuple[list[Block], int]] = {}
    left = _leaves_vectors(steps)
    checks, facts, own = check_weights(bundle.source, stored, parts, before, seen, left_alone=left)
    for path in target.models_beside(bundle):
        others = check_weights(bundle.source, target.parameters(path), parts, before, seen, left_alone=left).checks
        failed = {c.name: replace(c, detail=f"{path.name}: {c.detail}") for c in others if c.status is Status.FAIL}
        checks = [c if c.status is Status.FAIL else failed.get(c.name, c) for c in checks]
    return Compared(checks, facts, own)


def _leaves_vectors(steps: "Sequence[tuple[str, Artifact]]") -> bool:
    """Whether what quantized the files changes no bias and no normalization."""
    from converter.precision import Quantizer
    from converter.registry import stage_class, stage_names

    kinds = [stage_class(name) for name, _ in steps if name in stage_names()]
    rounded = [kind for kind in kinds if issubclass(kind, Quantizer)]
    return bool(rounded) and all(kind.leaves_vectors for kind in rounded)


def _float_files(steps: "Sequence[tuple[str, Artifact]]") -> tuple[Path, ...]:
    """Return the last float32 files before the package; none where they are the package themselves."""
    files = [made for _, made in steps if made.file_precision is not None]
    plain = [made for made in files if made.file_precision == "float32"]
    return plain[-1].weight_files if plain and len(plain) < len(files) else ()
