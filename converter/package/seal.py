"""Golden vectors, README and manifest of a finished bundle."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import converter
from converter.binding import unbind
from converter.graphs import spec_table
from converter.jsonfile import json_values
from converter.package.installed import installed
from converter.package.manifest import README, Package, seal
from converter.stage import Record
from converter.validate.checks import Status

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel
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
)
"""What can change a package's bytes or answers."""


def seal_package(
    target: "Target",
    precision: "ChosenPrecision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    records: "Sequence[Record]",
    recipe: "Recipe",
    source: "TorchModel",
    reference: "Reference",
) -> Package:
    """Complete and seal `bundle`.

    A package that failed gets the manifest only: it is kept for study, and may not even run.
    """
    from converter.package.readme import package_card

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
        "recipe": portable_recipe(recipe, source.provenance.id),
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
        card = package_card(target, precision, bundle, evaluation, source)
        (bundle.folder / README).write_text(card, encoding="utf-8")
    return seal(bundle, json_values(manifest))


def _golden(
    target: "Target",
    precision: "ChosenPrecision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    source: "TorchModel",
    reference: "Reference",
) -> dict[str, Any]:
    from converter.package.golden import record_golden, write_golden
    from converter.package.verify import signatures

    specs = bundle.source.specs
    runner = target.open(bundle.folder, specs)
    golden = record_golden(bundle.source, source, reference, runner)
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
        **({"beside": beside} if beside else {}),
    }


def _outputs(runner: "Runner", graph: str) -> tuple[str, ...]:
    return tuple(info.name for info in runner.graphs[graph].outputs)


def gate_table(evaluation: "Evaluation") -> dict[str, Any]:
    """Return the gate's report without the texts and the errors of single probes: those stand in report.json."""
    table = json_values(asdict(evaluation))
    return {"status": evaluation.status, **{k: v for k, v in table.items() if k not in {"errors", "worst"}}}


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
    return made


def portable_recipe(recipe: "Recipe", model: str) -> dict[str, Any]:
    """Return the recipe without a path of this machine: data files by name and hash, the model by its id."""
    from converter.model_folder.load import sha256_file
    from converter.recipe import recipe_table

    table = recipe_table(recipe) | {"model": model}
    for key, path in (("calibration", recipe.calibration), ("eval", recipe.evaluation)):
        if path is not None:
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
    made: dict[str, Any] = without_paths(json_values(asdict(record)))
    return made


def _rebuild(recipe: "Recipe") -> list[str]:
    model = "the model that `source` names (compare weights_sha256)"
    steps = [f"install plm-export {converter.__version__} and the distributions of `versions`", f"fetch {model}"]
    if recipe.calibration or recipe.evaluation:
        steps.append("put the files that `recipe` names (compare sha256) beside recipe.toml")
    return [*steps, "plm-export MODEL --recipe recipe.toml -o OUT, with the recipe.toml that lay beside this package"]
