"""A sealed folder with a few bytes in it, for tests of what is done to folders and not to models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from converter.package.manifest import seal
from tests.manifests import complete


def seal_folder(folder: Path, *, write: bool = True) -> Path:
    """Write two files (`write`) and the manifest of what lies in `folder`; returns it."""
    if write:
        (folder / "sub").mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"0123456789")
        (folder / "sub" / "notes.txt").write_text("notes\n", encoding="utf-8")
    seal(cast("Any", SimpleNamespace(folder=folder)), complete())
    return folder
