"""Sealing: golden vectors, manifest with the hash of every file, README; and `verify`, which checks it all again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import PackageDamaged
from converter.jsonfile import write_json

if TYPE_CHECKING:
    from converter.artifact import Bundle

MANIFEST = "manifest.json"
GOLDEN = "golden.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Package:
    """A sealed folder."""

    folder: Path
    manifest: Mapping[str, Any]


def seal(bundle: "Bundle", manifest: Mapping[str, Any]) -> Package:
    """Write the manifest last: a folder without one is not a package."""
    files = {
        str(p.relative_to(bundle.folder).as_posix()): _describe(p)
        for p in sorted(bundle.folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    table = {"format": FORMAT, **manifest, "files": files}
    write_json(bundle.folder / MANIFEST, table)
    return Package(bundle.folder, table)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        return {"sha256": hashlib.file_digest(opened, "sha256").hexdigest(), "size_bytes": path.stat().st_size}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a package's manifest.

    Raises:
        PackageDamaged: there is none, or it is not one of this tool's.

    """
    path = folder / MANIFEST
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageDamaged("there is no manifest.json: not a sealed package", where=str(folder)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PackageDamaged(f"the manifest cannot be read ({error})", where=str(path)) from None
    if not isinstance(table, dict) or table.get("format") != FORMAT or not isinstance(table.get("files"), dict):
        raise PackageDamaged("the manifest is not one that this version reads", where=str(path))
    return table


def check_files(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Check the hash of every file; returns how many.

    Raises:
        PackageDamaged: names the first file that is missing, changed, or not in the manifest.

    """
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise PackageDamaged(f"{name} is missing", where=str(folder))
        if _describe(path)["sha256"] != wanted["sha256"]:
            raise PackageDamaged(f"{name} has changed since it was sealed", where=str(folder))
    found = {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    extra = sorted(found - set(manifest["files"]))
    if extra:
        raise PackageDamaged(f"{extra[0]} is not in the manifest", where=str(folder))
    return len(manifest["files"])


def plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value), default=str))
