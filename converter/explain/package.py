"""A package, sealed or rejected, with its source and recipe: what `plm-export explain` starts from."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.binding import parse_options
from converter.context import context_of, read_text
from converter.errors import ExportError, PackageDamaged, StageFailed, UsageError
from converter.explain.steps import QUANTIZE, run_of
from converter.explain.walk import LABELS, PACKING, TOKENIZER, Explanation, Walk
from converter.package.manifest import MANIFEST, REJECTED
from converter.precision import Limits
from converter.recipe import ChosenPrecision, Recipe, bind_recipe, load_recipe_table
from converter.reference import capture_reference
from converter.registry import quantizers
from converter.stage import SILENT, Progress, run_stages
from converter.validate.compare import compare_answers
from converter.validate.vocabulary import as_seen_by

if TYPE_CHECKING:
    from converter.target import Target

N_TEXTS = 64
RECIPE = "recipe.toml"


def explain_package(
    folder: Path,
    source: str | None = None,
    recipe: Path | None = None,
    *,
    progress: Progress = SILENT,
    repair: bool = True,
) -> Explanation:
    """Return the first boundary between source and package that broke, the layer, and what repairs it.

    The steps of the package are run again, but for compression, whose result lies beside the package. `repair`: other
    settings are tried where quantization broke, which takes as long as all the rest.

    Raises:
        PackageDamaged: there is no manifest that can be read.
        UsageError: the source is not known, or is a model that writes text.

    """
    manifest = manifest_of(folder)
    with _walk(folder, manifest, recipe_of(folder, manifest, source, recipe), progress) as walk:
        found = walk.explain()
        if found.boundary == QUANTIZE and repair:
            best, *others = _repairs(walk) or [""]
            return replace(found, repair=best, next_repairs=tuple(others))
        if found.boundary == PACKING:
            return replace(found, repair=str(walk.precision))
        return found


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of a package whatever has become of its files: that is what is to be explained."""
    path = next((p for name in (MANIFEST, REJECTED) if (p := folder / name).is_file()), None)
    if path is None:
        raise PackageDamaged(f"there is neither {MANIFEST} nor {REJECTED}: not a package", where=str(folder))
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackageDamaged(f"the manifest cannot be read ({error})", where=str(path)) from None
    wanted = ("target", "precision", "graphs", "source")
    if not isinstance(table, dict) or any(not table.get(key) for key in wanted):
        raise PackageDamaged("required entries are missing from the manifest", where=str(path))
    return table


def recipe_of(folder: Path, manifest: Mapping[str, Any], source: str | None, recipe: Path | None) -> Recipe:
    """Return the recipe of this one package: the one beside it, of its target alone, on the source that is given.

    Raises:
        UsageError: there is no recipe, and no source was named.

    """
    path = recipe or folder.resolve().parent / RECIPE
    table: dict[str, Any] = load_recipe_table(path) if recipe or path.is_file() else {}
    model = source or table.get("model")
    if not model:
        raise UsageError(
            f"there is no {RECIPE} beside the package, so its source is not known",
            where="--source",
            hint=f"--source MODEL: the manifest calls it {manifest['source'].get('id')!r}",
        )
    target = str(manifest["target"])
    for key in ("calibration", "eval"):
        if isinstance(table.get(key), str) and not table[key].startswith("sample:") and not Path(table[key]).is_file():
            table.pop(key)  # moved since: built-in text serves
    kept = {k: v for k, v in table.items() if k not in {"target", "targets", "quantize", "limits"}}
    options = {**manifest.get("target_options", {})}
    return bind_recipe(
        kept
        | {"model": model, "targets": [target], "quantize": {target: str(manifest["precision"])}}
        | ({"target": {target: options}} if options else {})
        | {"limits": _limits(table, target)}
    )


def _limits(table: Mapping[str, Any], target: str) -> dict[str, Any]:
    found = table.get("limits", {})
    own = {k: v for k, v in found.items() if not isinstance(v, Mapping)}
    return own | {k: v for k, v in found.items() if isinstance(v, Mapping) and k.replace("_", "-") == target}


@contextmanager
def _walk(folder: Path, manifest: Mapping[str, Any], recipe: Recipe, progress: Progress) -> Iterator[Walk]:
    from converter.model_folder.given import load_model

    source = load_model(recipe, progress)
    if source.cache is not None:
        raise UsageError(
            "models that write text are not looked into yet",
            where=str(folder),
            hint="`plm-export inspect` shows the checks, `plm-export bench --profile` where the time of a token goes",
        )
    compressed = _compressed(folder, recipe, source)
    text = read_text(replace(recipe, n_probes=min(recipe.n_probes, N_TEXTS)), source, progress)
    whole = capture_reference(source, text.probes, progress)
    longest = manifest.get("max_length")
    length = longest if isinstance(longest, int) and longest < source.max_length else None
    shown, reference = as_seen_by(compressed, source, whole, length, progress)
    target, precision = recipe.targets[0], recipe.precisions[0]
    with TemporaryDirectory(prefix="plm-explain-") as work:
        ctx = context_of(recipe, source, text, Path(work), progress)
        limits = recipe.limits_for(target, precision.name)
        yield Walk(folder, manifest, target, precision, limits, source, compressed, shown, reference, ctx)


def _compressed(folder: Path, recipe: Recipe, source: TorchModel) -> TorchModel:
    """Return the compressed model that lies beside the package; the source where nothing was compressed."""
    if not recipe.compress:
        return source
    from converter.model_folder.given import at_max_length
    from converter.model_folder.load import load_source

    path = folder.resolve().parent / "compressed"
    if not path.is_dir():
        raise UsageError(
            "the compressed model is not beside the package",
            where=str(path),
            hint="explain needs the whole output folder of the run",
        )
    return at_max_length(load_source(str(path), task=recipe.task, longest=recipe.max_length), recipe.max_length)


def candidates(target: "Target", precision: ChosenPrecision, kind: str = "encoder") -> list[str]:
    """Return what may repair a precision, the smallest change first: its own gentler settings, then larger files.

    `kind` is that of the task: not every precision is for each.
    """
    menu = target.menu()
    own = quantizers(target.name).get(precision.name)
    made = list(own.gentler) if own else []
    size = menu[precision.name].bytes_a_weight
    larger = sorted((p for p in menu.values() if p.bytes_a_weight > size), key=lambda p: p.bytes_a_weight)
    known = quantizers(target.name)
    able = [p.name for p in larger if p.name not in known or kind in known[p.name].takes]
    return list(dict.fromkeys([*made, *(name for name in able if name != precision.name)]))


def _repairs(walk: Walk) -> list[str]:
    """Try what may repair it; return the first that keeps to its own limits on the same texts, and all after it."""
    tried = candidates(walk.target, walk.precision, walk.source.task.kind)
    for i, text in enumerate(tried):
        name, options = parse_options(text, "--quantize")
        try:
            artifact: Artifact = run_stages(
                walk.target.stages(name, options, walk.compressed), walk.compressed, walk.ctx
            )[0]
        except (StageFailed, ExportError):
            continue
        found = compare_answers(walk.shown, walk.reference, run_of(artifact), Limits(), walk.progress, text).evaluation
        limit = walk.target.limits(name).agreement
        if limit is None or found.agreement >= limit:
            return tried[i:]
    return []


def repaired_recipes(folder: Path, source: str | None, recipe: Path | None, found: Explanation) -> list[Recipe]:
    """Return the recipe with each setting that may repair `found`, the smallest change first; none where none does.

    Files beside the model, and a file that is not what its recipe makes, are repaired by exporting again as before.
    """
    made = recipe_of(folder, manifest_of(folder), source, recipe)
    if found.boundary in {TOKENIZER, LABELS, PACKING}:
        return [made]
    if found.boundary != QUANTIZE or not found.repair:
        return []
    texts = (found.repair, *found.next_repairs)
    return [replace(made, precisions=(ChosenPrecision(*parse_options(text, "--quantize")),)) for text in texts]
