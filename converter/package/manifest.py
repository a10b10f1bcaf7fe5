"""A sealed folder: the manifest with the hash of every file, and the check that nothing has changed since."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from converter.errors import PackageDamaged
from converter.graphs import MODEL
from converter.jsonfile import json_text, write_json

if TYPE_CHECKING:
    from converter.artifact import Bundle

MANIFEST = "manifest.json"
REJECTED = "rejected.json"
GOLDEN = "golden.safetensors"
README = "README.md"
SIGNATURE = "model.sig"
"""Written after the manifest, over it and all else: the one file beside it that it cannot list."""
FORMAT = 2
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
    unlisted = {folder / MANIFEST, folder / SIGNATURE}
    return [p for p in sorted(folder.rglob("*")) if not p.is_dir() and p not in unlisted]


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        return {"sha256": hashlib.file_digest(opened, "sha256").hexdigest(), "size_bytes": path.stat().st_size}


def _digest(table: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in table.items() if k != DIGEST}
    return hashlib.sha256(json_text(rest).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a package's manifest; one of an older format is returned as the current one would have it.

    Raises:
        PackageDamaged: there is none, it is not one of this tool's, it has changed, or the gate rejected the package.

    """
    path = folder / MANIFEST
    if not path.is_file() and (folder / REJECTED).is_file():
        raise PackageDamaged(
            "this package failed its gate: it is kept for analysis, not for use",
            where=str(folder),
            hint=f"{REJECTED} says which check failed",
        )
    try:
        text = path.read_bytes().decode()
        table = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise PackageDamaged("there is no manifest.json: not a sealed package", where=str(folder)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PackageDamaged(f"the manifest cannot be read ({error})", where=str(path)) from None
    if not isinstance(table, dict) or table.get("format") not in (FORMAT, OLD_FORMAT):
        raise PackageDamaged("the manifest has a format that this version does not read", where=str(path))
    # The text too: what is written is canonical, so any other spelling is a change.
    if table.get(DIGEST) != _digest(table) or text != json_text(table):
        raise PackageDamaged("manifest.json has changed since it was sealed", where=str(folder))
    if table["format"] == OLD_FORMAT:
        table = _upgraded(table)
    _check_shape(table, path)
    return table


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


def _check_shape(table: Mapping[str, Any], path: Path) -> None:
    """Trust nothing of a manifest but what it must have: anyone can compute a digest."""
    texts = ("target", "precision", "task")
    wanted = all(isinstance(table.get(k), str) for k in texts) and isinstance(table.get("files"), dict)
    described = wanted and all(
        isinstance(d, dict) and isinstance(d.get("sha256"), str) for d in table["files"].values()
    )
    graphs = table.get("graphs")
    named = isinstance(graphs, dict) and all(
        isinstance(g, dict) and g.get("file") in table["files"] for g in graphs.values()
    )
    if not described or not graphs or not named:
        raise PackageDamaged("required entries are missing from the manifest", where=str(path))
    for name in table["files"]:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise PackageDamaged(f"the manifest names a file outside the package: {name!r}", where=str(path))


def check_files(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Check the hash of every file; returns how many.

    Raises:
        PackageDamaged: names the files that are missing, changed, or not in the manifest.

    """
    wrong = [fault for name, wanted in sorted(manifest["files"].items()) if (fault := _fault(folder, name, wanted))]
    listed = set(manifest["files"])
    extra = [p.relative_to(folder).as_posix() for p in _files(folder)]
    wrong += [f"{name} is not in the manifest" for name in extra if name not in listed]
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise PackageDamaged(
            "; ".join(wrong[:5]) + more, where=str(folder), hint="download the package again, or rebuild it"
        )
    return len(listed)


def _fault(folder: Path, name: str, wanted: Mapping[str, Any]) -> str | None:
    path = folder / name
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} is a link"
    if not path.is_file():
        return f"{name} is missing"
    return None if _describe(path)["sha256"] == wanted["sha256"] else f"{name} has changed since it was sealed"
