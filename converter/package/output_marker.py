"""What of an output folder is provably this tool's: a marker with the digest of every file that was written."""

import contextlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from converter.bounds.files import sha256_file
from converter.jsonfile import json_text

MARKER = ".plm-export-output.json"
PARTIAL = MARKER + ".partial"
TOOL = "plm-export"
FORMAT = 1
MAX_MARKER_BYTES = 64 * 2**20
MEASUREMENTS_SUFFIX = ".devices.json"
"""What `bench --import` keeps beside a package: ours too, and worth keeping, so a replacement takes it over."""
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What desktops write wherever somebody looks: nobody's loss."""

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class PlaceFindings:
    """What was found in a folder. `stamps` let a second look skip the digests of files that nobody touched."""

    foreign: tuple[str, ...] = ()
    """What is not provably this tool's, for people to read: relative paths, `(changed)` behind those it once wrote."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict)
    exists: bool = True
    output: bool = False
    """Whether a finished run of this tool has left its marker there."""


def write_marker(folder: Path) -> None:
    """Write the marker of a finished folder, in one rename: it says what is in the folder, to the byte.

    Empty folders hold nothing that a marker could prove: they are removed.
    """
    while empty := [name for name in walk(folder) if name.endswith("/")]:
        for name in empty:
            (folder / name).rmdir()
    files = {name: _describe(folder / name) for name in sorted(walk(folder)) if name != MARKER}
    _write(folder, files)


def renew_marker(folder: Path, names: Collection[str], *, added: Collection[str] = ()) -> None:
    """Take files of `folder` that this tool has written again, or `added`, into the marker; nothing without one."""
    files = read_marker(folder)
    if files is not None:
        again = [name for name in names if name in files]
        _write(folder, {**files, **{name: _describe(folder / name) for name in (*again, *added)}})


def _write(folder: Path, files: Mapping[str, str]) -> None:
    about = "made by plm-export: `--force` replaces only files that are listed here and have not changed"
    partial = folder / PARTIAL
    partial.write_text(json_text({"tool": TOOL, "format": FORMAT, "about": about, "files": dict(files)}), "utf-8")
    partial.replace(folder / MARKER)


def read_marker(folder: Path) -> dict[str, str] | None:
    """Return the digest of each file that a finished run wrote; None where there is no marker that can be trusted."""
    return files_told(read_small_json(folder / MARKER))


def files_told(table: object) -> dict[str, str] | None:
    """Return the digest of each file that a marker tells of; None where it is none, or cannot be trusted."""
    if not isinstance(table, dict) or table.get("tool") != TOOL or table.get("format") != FORMAT:
        return None
    files = table.get("files")
    if not isinstance(files, dict):
        return None
    return files if all(_inside(name) and isinstance(digest, str) for name, digest in files.items()) else None


def read_small_json(path: Path) -> object:
    """Read a regular file of ours; None where it is anything else, is too large, or is no JSON."""
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_MARKER_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def inspect_place(
    folder: Path, *, skip: Collection[str] = (), seen: Mapping[str, Stamp] | None = None
) -> PlaceFindings:
    """Tell what in `folder` is not provably ours. Links are never followed, and never ours.

    Args:
        folder: a folder, or whatever now stands in its place.
        skip: names directly in it that are not looked at.
        seen: stamps of an earlier look: a file that has kept its stamp has kept its digest.

    """
    if folder.is_symlink() or not folder.is_dir():
        return PlaceFindings(foreign=(folder.name,))
    files = read_marker(folder)
    if files is None:
        # Whose it is does not depend on what lies deeper, and there may be a million files.
        return PlaceFindings(
            tuple(n for n in sorted(p.name for p in folder.iterdir()) if n not in skip and n not in LITTER)
        )
    ours = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    foreign, stamps = [], {}
    for name in walk(folder, skip):
        path = folder / name
        if name.endswith("/"):
            if name[:-1] not in ours:
                foreign.append(name)
        elif _is_ours(path, name, files, seen or {}):
            stamps[name] = _stamp(path)
        else:
            foreign.append(f"{name} (changed)" if name in files else name)
    return PlaceFindings(tuple(sorted(foreign)), stamps, output=True)


def _is_ours(path: Path, name: str, files: Mapping[str, str], seen: Mapping[str, Stamp]) -> bool:
    if name in {MARKER, PARTIAL} or is_litter(path) or is_measurements(path, name):
        return True
    if name not in files or not stat.S_ISREG(path.lstat().st_mode):
        return False
    return seen.get(name) == _stamp(path) or _describe(path) == files[name]


def is_measurements(path: Path, name: str) -> bool:
    """Whether `name`, directly in an output, is a list that `bench --import` wrote."""
    return "/" not in name and name.endswith(MEASUREMENTS_SUFFIX) and is_measurements_table(read_small_json(path))


def is_measurements_table(table: object) -> bool:
    return isinstance(table, dict) and isinstance(table.get("package"), str) and isinstance(table.get("results"), list)


def is_litter(path: Path) -> bool:
    return path.name in LITTER or (path.suffix == ".pyc" and path.parent.name == "__pycache__")


def same(path: Path, digest: str) -> bool:
    """Whether `path` is the file that a marker describes."""
    return path.is_file() and not path.is_symlink() and _describe(path) == digest


def walk(folder: Path, skip: Collection[str] = (), _below: str = "") -> Iterator[str]:
    """Yield all files (links and devices too) and, with a `/` behind, all empty folders, relative to `folder`."""
    try:
        with os.scandir(folder / _below) as found:
            entries = sorted(found, key=lambda e: e.name)
    except PermissionError:
        if not _below:
            raise
        entries = []  # somebody else's, whatever is in it
    for entry in entries:
        name = f"{_below}{entry.name}"
        if name in skip:
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield name
            continue
        inside = list(walk(folder, (), name + "/"))
        yield from inside
        if not inside:
            yield name + "/"


def remove_ours(folder: Path) -> bool:
    """Remove the files that the marker lists, and the folders that they leave empty; returns whether all is gone.

    What anybody else has put there meanwhile stays. The marker goes last, so that a killed removal can be gone on with.
    """
    files = read_marker(folder) or {}
    for name in list(walk(folder)):
        path = folder / name
        if name != MARKER and (
            name == PARTIAL or is_litter(path) or is_measurements(path, name) or (name in files and _plain(path))
        ):
            path.unlink()
    if files:
        (folder / MARKER).unlink()
    return remove_empty_folders(folder)


def remove_empty_folders(folder: Path) -> bool:
    """Remove the folders in `folder` that are empty, then itself; returns whether it is gone."""
    for below, _, _ in list(os.walk(folder, topdown=False)):
        with contextlib.suppress(OSError):
            Path(below).rmdir()
    return not folder.exists()


def _plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _stamp(path: Path) -> Stamp:
    state = path.lstat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _describe(path: Path) -> str:
    return f"sha256:{sha256_file(path)}"


def is_checkpoint(path: Path) -> bool:
    """Whether a file in a folder of checkpoints is one of ours: by its name, and by its header where it is whole."""
    if not re.fullmatch(r"[\w.+-]+-[0-9a-f]{16}\.(safetensors|partial)", path.name) or not _plain(path):
        return False
    if path.suffix == ".partial":
        return True
    with path.open("rb") as opened:
        return b'"checkpoint"' in opened.read(4096)
