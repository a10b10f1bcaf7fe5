"""The finished folder into its place, undone where something is in the way, never over what is not ours.

A run works in a hidden folder of its own: `out` is what it makes, `replaced` what stood in its place before. Moving the
marker with (or, file by file, last of all of) `out` is what commits: as long as it is still in `out`, `undo` brings
everything back to where it was. It reads that from the disk alone, so a later run can undo for one that was killed.
"""

import contextlib
import ctypes
import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar

from converter.package.output_marker import (
    MARKER,
    PlaceFindings,
    inspect_place,
    read_marker,
    remove_empty_folders,
    remove_ours,
    same,
    walk,
)

NOT_SUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
AT_FDCWD, RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h
RENAME_EXCL = 4  # sys/stdio.h of macOS
SEALS = ("manifest.json", "rejected.json", MARKER)
"""What makes a folder a package, or an output: moved in last and out first."""


class InTheWay(Exception):
    """Something that is not ours is where the output is to go; `names` says what, relative to it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(", ".join(self.names))


def rename_new(source: Path, target: Path) -> None:
    """Rename, and never replace anything.

    Where neither Linux's nor macOS's call is there (or the file system does not know it), what remains is: a folder is
    renamed by rename(2), which replaces nothing but an empty folder; a file gets a second name by link(2), which
    replaces nothing; where there are no links either, a file that appears between look and rename would be lost.

    Raises:
        FileExistsError: something is there, be it an empty folder or a broken link.

    """
    if _rename_exclusively(source, target):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if source.is_dir() and not source.is_symlink():
        source.rename(target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        source.rename(target)
    else:
        source.unlink()


def _rename_exclusively(source: Path, target: Path) -> bool:
    """Return False where this system or file system has no such call."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, RENAME_EXCL)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE)
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in NOT_SUPPORTED:
        raise OSError(number, os.strerror(number), str(target))
    return not failed


class Placement(ABC):
    """How `root/out` becomes `out`."""

    def __init__(self, out: Path, root: Path, *, force: bool = False) -> None:
        self.out, self.root, self.force = out, root, force
        self.made, self.replaced = root / "out", root / "replaced"

    @property
    def committed(self) -> bool:
        """Whether the marker has left `made`. Only means something once it was written."""
        return not os.path.lexists(self.made / MARKER)

    @abstractmethod
    def look(self, before: PlaceFindings | None = None) -> PlaceFindings:
        """Tell what in the output's place is not ours, skipping files that have kept their stamps since `before`."""

    @abstractmethod
    def place(self, before: PlaceFindings) -> None:
        """Move what stood there aside, look at it once more, and move the new output in.

        Raises:
            InTheWay, FileExistsError: what is there is not ours; call `undo`.

        """

    @abstractmethod
    def undo(self) -> list[Path]:
        """Bring back what was moved, unless it is committed; returns what found its place taken and is kept beside."""

    @abstractmethod
    def keep(self, folder: Path, word: str) -> Path:
        """Give `folder` a name that everybody sees; returns it."""

    def refuse(self, found: PlaceFindings) -> None:
        """Raise where `found` may not be replaced: without `force` our own finished outputs may not either."""
        if found.foreign or (found.output and not self.force):
            raise InTheWay(found.foreign or (MARKER,))

    def clean(self, remove: Callable[[Path], None]) -> list[Path]:
        """Remove `root`, after `undo`. Returns what is not ours in what was replaced, kept under another name.

        The marker goes first: without it a later `undo` takes nothing back from the output. `remove` removes a folder
        that is wholly the run's own.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.made / MARKER).unlink()
        kept = []
        plain = self.replaced.is_dir() and not self.replaced.is_symlink()
        if os.path.lexists(self.replaced) and not (plain and remove_ours(self.replaced)):
            kept.append(self.keep(self.replaced, "earlier"))
        remove(self.root)
        return kept


class ByRename(Placement):
    """By renaming the folder: what is seen there is the old output or the new one."""

    def look(self, before: PlaceFindings | None = None) -> PlaceFindings:
        return (
            inspect_place(self.out, seen=before.stamps if before else None)
            if os.path.lexists(self.out)
            else PlaceFindings(exists=False)
        )

    def place(self, before: PlaceFindings) -> None:
        found = self.look(before)
        self.refuse(found)
        if found.exists and not before.exists and not found.output:
            raise InTheWay((".",))  # an empty folder that somebody has just made is for something
        if found.exists:
            self.made.chmod(self.out.stat().st_mode & 0o7777)  # a folder that was private stays private
            self.out.rename(self.replaced)
            # Nobody reaches it by its old name now: what was put there in between is found here.
            self.refuse(inspect_place(self.replaced, seen=found.stamps))
        rename_new(self.made, self.out)

    def undo(self) -> list[Path]:
        if self.committed or not os.path.lexists(self.replaced):
            return []
        try:
            rename_new(self.replaced, self.out)
        except FileExistsError:
            return [self.keep(self.replaced, "earlier")]
        return []

    def keep(self, folder: Path, word: str) -> Path:
        return with_free_name(folder, self.out.with_name(f"{self.out.name}.{word}"))


class ByFile(Placement):
    """File by file, into a folder that cannot or must not be replaced: a mount point, or what a link points to."""

    HIDDEN: ClassVar[tuple[str, ...]] = (".plm-export.lock", ".plm-export.resume")

    @property
    def _skip(self) -> tuple[str, ...]:
        # A file system of its own has such a folder at its root.
        own = ("lost+found",) if os.path.ismount(self.out) else ()
        return (*self.HIDDEN, self.root.name, *own)

    def look(self, before: PlaceFindings | None = None) -> PlaceFindings:
        return inspect_place(self.out, skip=self._skip, seen=before.stamps if before else None)

    def place(self, before: PlaceFindings) -> None:
        found = self.look(before)
        self.refuse(found)
        for name in reversed(_in_order(found.stamps)):
            _move(self.out / name, self.replaced / name, Path.rename)
        if moved := self.replaced.is_dir():
            _remove_folders(self.out, found.stamps)
        self.refuse(self.look())
        if moved:
            self.refuse(inspect_place(self.replaced, seen=found.stamps))
        for name in _in_order(walk(self.made)):
            _move(self.made / name, self.out / name, rename_new)

    def undo(self) -> list[Path]:
        made = read_marker(self.made)
        if made is None:
            return []
        for name in reversed(_in_order(made)):
            if not os.path.lexists(self.made / name) and same(self.out / name, made[name]):
                _move(self.out / name, self.made / name, Path.rename)
        _remove_folders(self.out, made)
        if not os.path.lexists(self.replaced):
            return []
        for name in _in_order(walk(self.replaced)):
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                _move(self.replaced / name, self.out / name, rename_new)
        return [] if remove_empty_folders(self.replaced) else [self.keep(self.replaced, "earlier")]

    def keep(self, folder: Path, word: str) -> Path:
        return with_free_name(folder, self.out / f"plm-export.{word}")


def _in_order(names: Iterable[str]) -> list[str]:
    """Return files in the order in which they are moved in: seals of packages late, the output's own last."""
    files = (n for n in names if not n.endswith("/"))
    return sorted(files, key=lambda n: (SEALS.index(n.rpartition("/")[2]) + 1 if _is_seal(n) else 0, n))


def _is_seal(name: str) -> bool:
    return name == MARKER or name.rpartition("/")[2] in SEALS[:2]


def _move(source: Path, target: Path, rename: Callable[[Path, Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    rename(source, target)


def _remove_folders(folder: Path, names: Iterable[str]) -> None:
    """Remove the folders that files of these names were in, where they are empty now."""
    for name in sorted({p for n in names for p in PurePosixPath(n).parents if p.name}, reverse=True):
        with contextlib.suppress(OSError):
            (folder / name).rmdir()


def with_free_name(path: Path, wanted: Path) -> Path:
    """Rename `path` to `wanted`, or to that with a number behind where it is taken; returns the new path."""
    number, target = 1, wanted
    while True:
        try:
            rename_new(path, target)
        except FileExistsError:
            number += 1
            stem, dot, suffix = wanted.name.partition(".devices.json")
            target = wanted.with_name(f"{stem}-{number}{dot}{suffix}")
        else:
            return target
