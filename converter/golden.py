"""Replaying a sealed package."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.package import check_files, read_manifest

if TYPE_CHECKING:
    from converter.target import Runner


def verify_package(folder: Path, *, threads: int = 1) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {"files": check_files(folder, manifest), "target": manifest["target"], "threads": threads}


def open_sealed(folder: Path, *, threads: int = 1) -> "Runner":
    from converter.examples import PadIds
    from converter.registry import target_class

    return target_class(read_manifest(folder)["target"])().open(folder, PadIds(), threads)
