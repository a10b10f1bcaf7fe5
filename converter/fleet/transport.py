"""Files between machines: which a job reads, whether a worker has the same, and folders as one archive."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.bounds.files import files_of, sha256_tree
from converter.errors import StageFailed
from converter.model_folder.recipe_files import FILE_KEYS, FILE_OPTIONS


def local_paths(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files and folders of this machine that a job reads, each once; those that it can get at."""
    found = [v for key in ("model", *FILE_KEYS) if isinstance(v := recipe.get(key), str) and Path(v).is_absolute()]
    for stage in recipe.get("compress", ()):
        for key in FILE_OPTIONS:
            value = stage.get(key) if isinstance(stage, Mapping) else None
            found += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    return tuple(dict.fromkeys(v for v in found if _is_there(v)))


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # no name that a file can have, or in a folder that nobody here may look into
        return False


def with_paths(recipe: Mapping[str, Any], moved: Mapping[str, str]) -> dict[str, Any]:
    """Return a recipe with every path that has moved at its new place."""

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new(v) for v in value]
        if isinstance(value, Mapping):
            return {k: new(v) for k, v in value.items()}
        return moved.get(value, value) if isinstance(value, str) else value

    made = new(recipe)
    assert isinstance(made, dict)
    return made


def path_digest(path: str) -> str | None:
    """Return the SHA-256 of a file, or of all names and contents in a folder; None where there is none."""
    return sha256_tree(Path(path)) if Path(path).exists() else None


def path_times(path: str) -> tuple[tuple[str, int], ...]:
    """Return when a file, or each file in a folder, was last written, in nanoseconds, by its name in the folder."""
    top = Path(path)
    return tuple((one.relative_to(top).as_posix(), one.stat().st_mtime_ns) for one in files_of(top))


def pack(path: Path, *, without: frozenset[str] = frozenset()) -> bytes:
    """Return a file or folder as one tar archive; links become the files behind them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", dereference=True) as archive:
        for one in files_of(path):
            name = one.relative_to(path if path.is_dir() else path.parent).as_posix()
            if name not in without:
                archive.add(one, arcname=name, recursive=False)
    return made.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Write an archive of `pack` into a folder.

    Raises:
        StageFailed: the archive is damaged, or names something outside the folder.

    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            opened.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise StageFailed(f"what a worker has sent cannot be unpacked ({error})", where=str(folder)) from None
