"""A sealed folder: the manifest with the hash of every file, and the check that nothing has changed since."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from converter.bounds.files import sha256_file
from converter.errors import GateFailed, PackageDamaged
from converter.graphs import MODEL
from converter.jsonfile import json_text, write_json
from converter.package.schema import Manifest, check_manifest, parse, read_manifest_text

if TYPE_CHECKING:
    from converter.artifact import Bundle

MANIFEST = "manifest.json"
REJECTED = "rejected.json"
GOLDEN = "golden.safetensors"
README = "README.md"
SIGNATURE = "model.sig"
"""Written after the manifest, over it and all else: the one file beside it that it cannot list."""
FORMAT = 3
OLD_FORMAT = 1
"""Of one graph alone: its file as `model_file`, and what the runtime said of it as `signature`. Still read."""
DIGEST = "manifest_sha256"
"""The manifest's own digest, over the rest of it: a slip of one byte in it is found like in any other file."""


@dataclass(frozen=True)
class Package:
    """A sealed folder."""

    folder: Path
    manifest: Mapping[str, Any]


def seal(bundle: "Bundle", manifest: Mapping[str, Any]) -> Package:
    """Write the manifest last: a folder without one is not a package."""
    files = {p.relative_to(bundle.folder).as_posix(): _describe(p) for p in _files(bundle.folder)}
    table = {"format": FORMAT, **manifest, "files": files}
    table[DIGEST] = _digest(table)
    write_json(bundle.folder / MANIFEST, table)
    return Package(bundle.folder, table)


def _files(folder: Path) -> list[Path]:
    """Return what is no folder, sorted: a link to a folder too, which nobody follows."""
    found = []
    for root, folders, names in os.walk(folder):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [Path(root) / name for name in (*names, *linked)]
    return sorted(p for p in found if p not in {folder / MANIFEST, folder / SIGNATURE})


def _describe(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def _digest(table: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in table.items() if k != DIGEST}
    return hashlib.sha256(json_text(rest).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a package's manifest; one of an older format is returned as the current one would have it.

    Raises:
        PackageDamaged: there is none, it is not one of this tool's, or it has changed.
        GateFailed: the gate rejected the package.

    """
    return read_whole(folder)[0]


def read_sealed(folder: Path) -> Manifest:
    """Read a package's manifest, typed; raises what `read_manifest` does."""
    return read_whole(folder)[1]


def read_whole(folder: Path) -> tuple[dict[str, Any], Manifest]:
    """Read a package's manifest once, as a table and typed; raises what `read_manifest` does."""
    path = folder / MANIFEST
    if not path.is_file() and (folder / REJECTED).is_file():
        raise GateFailed(
            "this package failed its gate: it is kept for analysis, not for use",
            where=str(folder),
            hint=f"{REJECTED} says which check failed",
        )
    text = read_manifest_text(path)
    table = parse(text, path)
    try:
        # The text too: what is written is canonical, so any other spelling is a change.
        same = table.get(DIGEST) == _digest(table) and text == json_text(table)
    except (UnicodeEncodeError, RecursionError):  # half a surrogate pair, which is never written
        same = False
    if not same:
        raise PackageDamaged("manifest.json has changed since it was sealed", where=str(folder))
    typed = check_manifest(text, path, table["format"])
    _check_names(typed, path)
    return (_upgraded(table) if table["format"] == OLD_FORMAT else table), typed


def _upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of one graph with that graph by its name; its specs are not in it."""
    graph = {"file": old.get("model_file"), "signature": old.get("signature")}
    return {**{k: v for k, v in old.items() if k not in {"model_file", "signature"}}, "graphs": {MODEL: graph}}


def model_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the file of each graph, by the graph's name."""
    return {name: graph["file"] for name, graph in manifest["graphs"].items()}


def model_bytes(manifest: Mapping[str, Any]) -> int:
    """Return the size of the model: of all its files together, weights beside a graph included."""
    own = set(model_files(manifest).values())
    own |= {name for name in manifest["files"] for file in own if name.startswith(f"{file}_data")}
    sizes = (manifest["files"][name].get("size_bytes", 0) for name in own)
    return sum(size for size in sizes if isinstance(size, int))


def _check_names(manifest: Manifest, path: Path) -> None:
    """Refuse names of files that lead out of the package, and graphs whose file is none of its files."""
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise PackageDamaged(f"the manifest names a file outside the package: {name!r}", where=str(path))
    for graph, name in manifest.graph_files.items():
        if name not in manifest.files:
            raise PackageDamaged(
                f"the manifest says that the graph {graph} is in {name!r}, which is none of its files", where=str(path)
            )


def check_files(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Check the hash of every file; returns how many.

    Raises:
        PackageDamaged: names the files that are missing, changed, or not in the manifest.

    """
    wrong = [fault for name, wanted in sorted(manifest["files"].items()) if (fault := _fault(folder, name, wanted))]
    listed = set(manifest["files"])
    extra = [p for p in _files(folder) if p.relative_to(folder).as_posix() not in listed]
    wrong += [f"{p.relative_to(folder).as_posix()} is {_said_of_extra(p)}" for p in extra]
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise PackageDamaged(
            "; ".join(wrong[:5]) + more, where=str(folder), hint="download the package again, or rebuild it"
        )
    return len(listed)


def _said_of_extra(path: Path) -> str:
    return "a link that is not in the manifest" if path.is_symlink() else "not in the manifest"


def _fault(folder: Path, name: str, wanted: Mapping[str, Any]) -> str | None:
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} is a link"
    if not path.is_file():
        return f"{name} is missing"
    # Its size first: nothing larger than what was sealed is read.
    same = path.stat().st_size == wanted["size_bytes"] and _describe(path)["sha256"] == wanted["sha256"]
    return None if same else f"{name} has changed since it was sealed"
