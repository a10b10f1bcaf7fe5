"""What it takes to make a package again: its recipe with files found, what its run found out, and the comparison."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError, PackageDamaged, UsageError
from converter.package.schema import Format3, Manifest

if TYPE_CHECKING:
    from converter.context import Resolved
    from converter.recipe import Recipe

RECIPE_FILE = "recipe.toml"
MOST_NAMED = 5
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""An id on the Hub has an owner; a folder's own name leads nowhere."""


@dataclass(frozen=True)
class Comparison:
    """Two packages, file by file."""

    n_files: int
    differing: tuple[str, ...]
    """Names of files that are not the same, or in one of them only."""
    keys: tuple[str, ...]
    """Keys of the manifest that differ, besides hashes."""

    @property
    def same(self) -> bool:
        return not self.differing

    def sentence(self) -> str:
        shown = ", ".join(self.differing[:MOST_NAMED])
        more = f" (and {len(self.differing) - MOST_NAMED} more)" if len(self.differing) > MOST_NAMED else ""
        keys = f"; in the manifest: {', '.join(self.keys[:MOST_NAMED])}" if self.keys else ""
        return f"the package made now differs in {shown}{more}{keys}"


def of_this_format(package: Path, manifest: Manifest) -> Format3:
    """Return the manifest of a package that can be made again.

    Raises:
        UsageError: an earlier version sealed it.

    """
    if isinstance(manifest, Format3):
        return manifest
    raise UsageError(
        f"it has the format {manifest.format}, whose manifest does not say all that a run measured and chose",
        where=str(package),
        hint="export it again: packages of this version can be rebuilt",
    )


def recipe_of(package: Path, manifest: Format3, model: str | None, data: Sequence[Path]) -> "Recipe":
    """Return the package's recipe, its model and files where they are now.

    Raises:
        UsageError: the model or a file is not found, or a file is not the one that was used.

    """
    from converter.model_folder.recipe_files import FILE_OPTIONS
    from converter.recipe import bind_recipe

    beside = _beside(package)
    table = dict(manifest.recipe) | {"model": _model(manifest, model, beside)}
    for key in ("calibration", "eval"):
        if isinstance(table.get(key), Mapping):
            known = beside.get(key)
            table[key] = str(find_file(dict(table[key]), data, known if isinstance(known, str) else None))
    stages = beside.get("compress")
    known_stages = stages if isinstance(stages, list) else []
    made = []
    for i, stage in enumerate(table.get("compress") or ()):
        known = known_stages[i] if i < len(known_stages) and isinstance(known_stages[i], dict) else {}
        files = {o: _files(stage[o], data, known.get(o)) for o in FILE_OPTIONS if stage.get(o)}
        made.append({**stage, **files})
    return bind_recipe({**table, **({"compress": made} if made else {})}, where=f"{package}: recipe")


def resolved_of(manifest: Format3) -> "Resolved":
    """Return what the package's run found out for itself."""
    from converter.context import Resolved
    from converter.registry import target_class
    from converter.target import Aim

    told, source = manifest.resolved, manifest.source
    aim = None
    if told.aim is not None:
        menu = target_class(told.aim.target).menu()
        if told.aim.precision not in menu:
            raise PackageDamaged(f"{told.aim.target} has no precision {told.aim.precision!r}", where="resolved.aim")
        aim = Aim(told.aim.target, menu[told.aim.precision])
    known_as = {"id": source.id, "revision": source.revision, "licence": source.licence}
    return Resolved(told.threads, aim, told.measured, known_as, source.weights_sha256)


def _beside(package: Path) -> dict[str, Any]:
    """Return the recipe.toml of the output folder, empty where there is none."""
    from converter.recipe import load_recipe_table

    try:
        return load_recipe_table(package.resolve().parent / RECIPE_FILE)
    except ExportError:
        return {}


def _model(manifest: Format3, given: str | None, beside: Mapping[str, Any]) -> str:
    from converter.model_folder.samples import is_sample

    if given is not None:
        return given
    recorded = str(manifest.recipe.get("model", manifest.source.id))
    for known in (beside.get("model"), recorded):
        if isinstance(known, str) and (is_sample(known) or Path(known).is_dir() or HUB_ID.fullmatch(known)):
            return known
    raise UsageError(
        f"the source {manifest.source.id!r} is not found: it was a folder, whose path is in no package",
        where="MODEL",
        hint="plm-export rebuild PACKAGE ./folder-of-the-model",
    )


def _files(value: Any, data: Sequence[Path], known: Any) -> Any:
    if isinstance(value, list):
        others = known if isinstance(known, list) else []
        return [_files(v, data, others[i] if i < len(others) else None) for i, v in enumerate(value)]
    return str(find_file({"file": str(value)}, data, known if isinstance(known, str) else None))


def find_file(wanted: Mapping[str, Any], data: Sequence[Path], known: str | None) -> Path:
    """Return the file of this name and hash in one of the folders `data`, or at the path `known`.

    Where no hash is known it may be a folder.

    Raises:
        UsageError: it is not there, or it is another file.

    """
    from converter.bounds.files import sha256_file

    name, digest = str(wanted.get("file")), wanted.get("sha256")
    places = [folder / name for folder in data] + ([Path(known)] if known else [])
    found = [path for path in places if path.is_file() or (digest is None and path.is_dir())]
    if not found:
        raise UsageError(
            f"the recipe's file {name} is not found", where="--data", hint="--data FOLDER says where the files lie"
        )
    same = [path for path in found if digest is None or sha256_file(path) == digest]
    if not same:
        raise UsageError(f"{found[0]} is not the file that was used: its SHA-256 differs", where="--data")
    return same[0].resolve()


def compare_packages(old: Path, new: Path) -> Comparison:
    """Compare two sealed folders byte by byte."""
    from converter.package.manifest import DIGEST, MANIFEST, read_manifest

    ours, theirs = (
        {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
        for folder in (old, new)
    )
    names = sorted({*ours, *theirs})
    differing = tuple(
        name
        for name in names
        if name not in ours or name not in theirs or ours[name].read_bytes() != theirs[name].read_bytes()
    )
    keys: tuple[str, ...] = ()
    if MANIFEST in differing:
        keys = tuple(_paths(read_manifest(old), read_manifest(new), {"files", DIGEST}))
    return Comparison(len(names), differing, keys)


def _paths(old: Any, new: Any, without: set[str], at: str = "") -> list[str]:
    """Return the places at which two tables differ."""
    if old == new:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted({*old, *new} - without)
        return [p for n in names for p in _paths(old.get(n), new.get(n), set(), f"{at}.{n}" if at else n)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [p for i, (a, b) in enumerate(zip(old, new, strict=True)) for p in _paths(a, b, set(), f"{at}[{i}]")]
    return [at]
