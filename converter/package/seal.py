"""Golden vectors, README and manifest of a finished bundle."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.binding import unbind
from converter.examples import SLICES
from converter.graphs import spec_table
from converter.jsonfile import json_values
from converter.package.installed import installed
from converter.package.manifest import README, Package, read_sealed, seal
from converter.package.sweep import MOST_TOKENS, MOST_UNHELD
from converter.recipe import CONFIDENCE
from converter.resources import LARGE_BYTES, made_beside
from converter.stage import Record
from converter.validate.checks import Status

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel
    from converter.package.stored_sums import StoredSums
    from converter.recipe import ChosenPrecision, Recipe
    from converter.reference import Reference
    from converter.target import Runner, Target
    from converter.validate.checks import Evaluation

DISTRIBUTIONS = (
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-lm-builder",
)
"""What can change a package's bytes or answers."""
TIMED_FACTS = frozenset({"speed", "not_worth_it", "candidates", "seconds_training"})
"""Facts that hold times, or what follows from them."""


def seal_package(
    target: "Target",
    precision: "ChosenPrecision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    records: "Sequence[Record]",
    recipe: "Recipe",
    source: "TorchModel",
    reference: "Reference",
    resolved: Mapping[str, Any],
) -> Package:
    """Complete and seal `bundle`; `resolved` is what the run found out for itself.

    Times and memory stand in the run's report: in a package they would make other bytes of every run. A package that
    failed gets the manifest only: it is kept for study, and may not even run.
    """
    from converter.model_folder.licence import write_notices
    from converter.package.readme import package_card
    from converter.package.sbom import write_bom

    manifest = {
        "tool": {"name": "plm-export", "version": converter.__version__},
        "target": target.name,
        "target_options": unbind(target),
        "precision": str(precision),
        "graphs": {name: {"file": bundle.files[name], **spec_table(s)} for name, s in bundle.source.specs.items()},
        "task": source.task.name,
        "labels": list(source.task.labels),
        "prompt": source.prompt_facts,
        "source": {**asdict(source.provenance), "size_bytes": source.size_bytes, "max_length": source.max_length},
        "recipe": portable_recipe(own_recipe(recipe, target, precision), source.provenance.id),
        "resolved": without_paths(resolved),
        "rebuild": _rebuild(recipe),
        "versions": installed(DISTRIBUTIONS),
        "platform": f"{platform.system()} {platform.machine()}",
        "records": [_record(r) for r in records],
        "limits": unbind(recipe.limits_for(target, precision.name)),
        "relaxed": relaxed(recipe, target, precision.name),
        "gate": gate_table(evaluation),
    }
    if evaluation.status is not Status.FAIL:
        manifest |= _golden(target, precision, bundle, evaluation, source, reference)
        write_notices(source.card, bundle.folder)
        write_bom(target, precision, bundle, evaluation, source, manifest)
        card = package_card(target, precision, bundle, evaluation, source)
        (bundle.folder / README).write_text(card, encoding="utf-8")
    made = seal(bundle, json_values(manifest))
    if evaluation.status is not Status.FAIL:
        read_sealed(bundle.folder)  # what `verify` would not read must not leave this run
    return made


def _golden(
    target: "Target",
    precision: "ChosenPrecision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    source: "TorchModel",
    reference: "Reference",
) -> dict[str, Any]:
    from converter.package.golden import record_golden, write_golden
    from converter.package.machine import defaults_of
    from converter.package.verify import signatures
    from converter.validate.interface import load_tokenizer

    specs = bundle.source.specs
    runner = target.open(bundle.folder, specs)
    n_words = len(bundle.source.tokenizer)
    with made_beside(partial(_stored, target, bundle), later=source.size_bytes > LARGE_BYTES) as stored:
        golden = record_golden(bundle.source, source, reference, runner, lambda: _swept(stored(), n_words))
        golden = replace(
            golden,
            defaults=defaults_of(bundle.folder, load_tokenizer(bundle.folder), bundle.source.task),
            stored=stored(),
        )
    write_golden(golden, bundle.folder)
    tolerance = target.menu()[precision.name].tolerance
    beside = target.accompany(bundle, golden, runner, evaluation, tolerance)
    return {
        "runtime": runner.runtime,
        # A package may leave outputs out that the model has.
        "graphs": {
            name: {"file": bundle.files[name], **spec_table(spec.giving(_outputs(runner, name))), "signature": told}
            for (name, spec), told in zip(specs.items(), signatures(runner).values(), strict=True)
        },
        "max_length": min(source.max_length, runner.max_length or source.max_length),
        "max_batch": runner.max_batch,
        "lengths": list(runner.lengths),
        "replay_tolerance": tolerance,
        "golden": {
            "texts": len(golden.examples),
            "same_answers": golden.n_same,
            "sums": len(golden.stored.names),
            "calls": len(golden.sweep.calls),
        },
        **({"beside": beside} if beside else {}),
    }


def _swept(stored: "StoredSums", n_words: int) -> int:
    """Return how many words are asked: each word has a sum, or else is in a call."""
    held = any(k.endswith(".table") and len(v) >= n_words for k, v in stored.sums.items())
    return MOST_TOKENS if held else MOST_UNHELD


def _stored(target: "Target", bundle: "Bundle") -> "StoredSums":
    """Add up the weights of a package's files; those of models that write text are proven by what they write."""
    from converter.package.stored_sums import StoredSums, sums_of

    if bundle.source.cache is not None:
        return StoredSums()
    files = [bundle.folder / f for f in dict.fromkeys(bundle.files.values())]
    return sums_of(chain.from_iterable(map(target.parameters, files)))


def _outputs(runner: "Runner", graph: str) -> tuple[str, ...]:
    return tuple(info.name for info in runner.graphs[graph].outputs)


def gate_table(evaluation: "Evaluation") -> dict[str, Any]:
    """Return the gate's report without what a run measured of time, and without the texts and errors of single probes.

    Those stand in report.json.
    """
    table = json_values(asdict(evaluation))
    facts = {k: v for k, v in table["facts"].items() if k not in TIMED_FACTS}
    kept = {k: v for k, v in table.items() if k not in {"errors", "worst", "milliseconds"}}
    return {**kept, "status": evaluation.status, "facts": facts}


def own_recipe(recipe: "Recipe", target: "Target", precision: "ChosenPrecision") -> "Recipe":
    """Return what of a recipe makes this one package; in place of `auto` stands what it chose."""
    limits = {k: v for k, v in recipe.limits.items() if k in ("", target.name)}
    return replace(recipe, targets=(target,), precisions=(precision,), limits=limits)


def relaxed(recipe: "Recipe", target: "Target", precision: str) -> list[str]:
    """Return, a sentence each, the limits that the recipe made weaker than the target's own."""
    own, used = target.limits(precision), recipe.limits_for(target, precision)
    made = []
    for name, at_least in (
        ("max_error", False),
        ("mean_error", False),
        ("cosine", True),
        ("agreement", True),
        ("stability", True),
        ("max_drop", False),
        ("sequences", True),
        ("perplexity", False),
    ):
        before, after = getattr(own, name), getattr(used, name)
        if before is not None and after is None:
            made.append(f"{name}: not judged instead of {before:g}")
        elif before is not None and (after < before if at_least else after > before):
            made.append(f"{name}: {after:g} instead of {before:g}")
    if recipe.confidence < CONFIDENCE:
        made.append(f"confidence: {recipe.confidence:g} instead of {CONFIDENCE:g}")
    if left_out := [name for name in SLICES if name not in recipe.slices]:
        made.append(f"slices: not judged by {', '.join(left_out)}")
    return made


def portable_recipe(recipe: "Recipe", model: str) -> dict[str, Any]:
    """Return the recipe without a path of this machine: data files by name and hash, the model by its id."""
    from converter.bounds.files import sha256_file
    from converter.model_folder.samples import is_sample
    from converter.recipe import recipe_table

    table = recipe_table(recipe) | {"model": recipe.model if is_sample(recipe.model) else model}
    for key, path in (("calibration", recipe.calibration), ("eval", recipe.evaluation)):
        if path is not None and not is_sample(str(path)):
            table[key] = {"file": path.name, "sha256": sha256_file(path) if path.is_file() else None}
    made: dict[str, Any] = without_paths(table)
    return made


def without_paths(value: Any) -> Any:
    """Return `value` with absolute paths cut to their last part: packages are shared, folders are private."""
    if isinstance(value, Mapping):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(v) for v in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return value


def _record(record: Record) -> dict[str, Any]:
    table = {k: v for k, v in asdict(record).items() if k not in {"seconds", "peak_memory_bytes", "cached"}}
    facts = {k: v for k, v in record.facts.items() if k not in TIMED_FACTS}
    made: dict[str, Any] = without_paths(json_values({**table, "facts": facts}))
    return made


def _rebuild(recipe: "Recipe") -> list[str]:
    model = "the model that `source` names (compare weights_sha256)"
    steps = [f"install plm-export {converter.__version__} and the distributions of `versions`", f"fetch {model}"]
    if recipe.calibration or recipe.evaluation:
        steps.append("put the files that `recipe` names (compare sha256) into a folder, for --data")
    return [*steps, "plm-export rebuild PACKAGE MODEL --check"]
