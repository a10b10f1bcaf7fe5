"""A store in a folder of this machine: entries appear in one rename, the least recently used go first."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.bounds.exhausted import FULL
from converter.bounds.files import UnfitFileError, read_bounded
from converter.bounds.scratch import held, remove_if_left
from converter.bounds.sizes import shown_size
from converter.cache.store import (
    FILES,
    LISTING,
    MARKER,
    MOST_BYTES,
    Entry,
    EntryDamaged,
    copy_checked,
    is_of_this_format,
    listing_of,
    marker_text,
    read_listing,
)
from converter.errors import UsageError

PARTIAL = ".partial-"
LOCK = ".lock"
SPARE = 500_000_000
"""Bytes of the disk that are left to others: a cache that fills it would end the run that it should shorten."""
TEMPORARY = frozenset({*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT})
"""What a folder may refuse at any time: the run goes on without it."""


class FolderStore:
    """Entries lie at `KEY/NAME/`; several processes may read, write and clean up at the same time.

    A reader who loses an entry to another's cleaning up finds a file missing, and makes the entry again.
    """

    def __init__(self, folder: Path, limit: int, note: Callable[[str], None], *, spare: int = SPARE) -> None:
        """`limit` is in bytes, of all entries together; `spare` bytes of the disk stay free.

        Raises:
            UsageError: there is a file, or a folder with files of somebody else's, or it cannot be made.

        """
        self.folder, self._limit, self._note, self._spare = folder, limit, note, spare
        self._usable = self._open()
        if self._usable:
            self._remove_partials()

    def _open(self) -> bool:
        where = str(self.folder)
        marker = self.folder / MARKER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                others = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
                if others and not marker.exists():  # another process may have begun it meanwhile
                    raise UsageError(
                        f"the folder holds files that are not of a cache: {others[0]}",
                        where=where,
                        hint="give --cache an empty or new folder",
                    )
                partial = marker.with_name(f".{MARKER}-{uuid.uuid4().hex}")
                partial.write_text(marker_text(), encoding="utf-8")
                partial.replace(marker)
            found = read_bounded(marker, MOST_BYTES)
        except (FileExistsError, NotADirectoryError):
            raise UsageError("the cache is a file", where=where, hint="give --cache a folder or a URL") from None
        except OSError as error:
            if error.errno in FULL:
                self._note(f"the disk of the cache {where} is full: nothing is kept")
                return False
            raise UsageError(
                f"the cache cannot be used ({os.strerror(error.errno or 0)})", where=where, hint="another --cache"
            ) from None
        except UnfitFileError:
            found = b""
        return is_of_this_format(found, where, self._note)

    def entries(self, key: str) -> Iterator[Entry]:
        """Yield the sound entries of a key, see `Store`."""
        if not self._usable:
            return
        try:
            found = sorted(p for p in (self.folder / key).iterdir() if not p.name.startswith("."))
        except OSError:
            return
        for place in found:
            entry = self._read(place)
            if entry is not None:
                yield entry

    def fetch(self, entry: Entry, into: Path) -> bool:
        """Copy the files of an entry, see `Store`."""
        place = self._place(entry)
        try:
            for name, (size, digest) in entry.files.items():
                with (place / FILES / name).open("rb") as opened:
                    copy_checked(opened, into / name, size, digest)
            with contextlib.suppress(OSError):  # another user's entry, or a place that is only read
                os.utime(place / LISTING)
        except FileNotFoundError:
            self._damaged(place, "a file is missing")
            return False
        except EntryDamaged as error:
            self._damaged(place, str(error))
            return False
        except OSError as error:
            self._note(f"an entry of the cache cannot be read ({os.strerror(error.errno or 0)}): made again")
            return False
        return True

    def put(self, key: str, name: str, facts: Mapping[str, Any], files: Path) -> bool:
        """Copy files into a partial entry and rename it into place, see `Store`."""
        if not self._usable:
            return False
        needed = sum(p.stat().st_size for p in files.rglob("*") if p.is_file())
        if needed > self._limit:
            self._note(f"{shown_size(needed)} are not kept: the cache holds {shown_size(self._limit)} at most")
            return False
        place = self.folder / key / name
        try:
            self._make_room(needed)
            if shutil.disk_usage(self.folder).free < needed + self._spare:
                self._note(f"the disk of the cache {self.folder} has no room for {shown_size(needed)} more: not kept")
                return False
            with self._partial() as partial:
                shutil.copytree(files, partial / FILES, copy_function=shutil.copyfile)
                (partial / FILES).chmod(partial.stat().st_mode & 0o777)  # not that of a temporary folder
                (partial / LISTING).write_bytes(listing_of(key, name, facts, files))
                _put_in_place(partial, place)
        except OSError as error:
            if error.errno not in TEMPORARY:
                raise
            self._note(f"the cache {self.folder} cannot be written ({os.strerror(error.errno or 0)}): not kept")
            return False
        return True

    def drop(self, entry: Entry) -> None:
        """Remove an entry."""
        self._remove(self._place(entry))

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._all())

    def _place(self, entry: Entry) -> Path:
        return self.folder / entry.key / entry.name

    def _read(self, place: Path) -> Entry | None:
        try:
            return read_listing(read_bounded(place / LISTING, MOST_BYTES), place.parent.name, place.name)
        except FileNotFoundError:
            return None
        except (EntryDamaged, UnfitFileError) as error:
            self._damaged(place, str(error))
        except OSError:
            return None
        return None

    def _damaged(self, place: Path, why: str) -> None:
        self._note(f"an entry of the cache is damaged and made again ({why})")
        self._remove(place)

    def _remove(self, place: Path) -> None:
        """Take an entry out of sight in one rename, then remove it."""
        gone = self.folder / f"{PARTIAL}{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            place.rename(gone)
            with contextlib.suppress(OSError):
                place.parent.rmdir()
            shutil.rmtree(gone, ignore_errors=True)

    def _all(self) -> list[tuple[float, int, Path]]:
        """Return when every entry was used last, its size and its place, the longest unused first."""
        found = []
        for place in self.folder.glob("[0-9a-f]*/[0-9a-f]*"):
            with contextlib.suppress(OSError):
                used = (place / LISTING).stat().st_mtime
                found.append((used, sum(p.stat().st_size for p in place.rglob("*") if p.is_file()), place))
        return sorted(found)

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for the longest time, until `needed` bytes more keep to the limit."""
        with self._locked():
            found = self._all()
            over = sum(size for _, size, _ in found) + needed - self._limit
            for _, size, place in found:
                if over <= 0:
                    break
                self._remove(place)
                over -= size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process cleans up at a time; without locks on this file system two may remove more than they had to."""
        with (self.folder / LOCK).open("w") as opened:
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _partial(self) -> Iterator[Path]:
        """Make a folder that is locked as long as this process lives: what a killed one has left is found by that."""
        made = self.folder / f"{PARTIAL}{uuid.uuid4().hex}"
        made.mkdir()
        with held(made):
            yield made

    def _remove_partials(self) -> None:
        for left in self.folder.glob(f"{PARTIAL}*"):
            remove_if_left(left)


def _put_in_place(partial: Path, place: Path) -> None:
    """Rename a folder to its name, unless another process was faster."""
    for last in (False, True):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(place)
        except FileNotFoundError:  # another process has just removed the last entry of this key
            if last:
                raise
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return
        else:
            return
