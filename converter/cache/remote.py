"""A store behind a URL that fsspec opens (`s3://`, `gs://`, `sftp://`, `memory://`): no renames and no locks there.

The files of an entry are written under a name of their own first, and its listing, with their hashes, last. So a
reader sees whole entries alone, and of two writers of one entry the later listing counts, with its own files.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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

PLACE = "_place"
"""Among an entry's facts: under which name its files lie."""
WRITTEN = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What implementations call the time of writing."""


class RemoteStore:
    """Entries lie at `URL/KEY/NAME/`. The oldest go first: most such places do not tell when a file was read."""

    def __init__(self, url: str, limit: int, note: Callable[[str], None]) -> None:
        """`limit` is in bytes, of all entries together.

        Raises:
            UsageError: nothing opens such a URL, or it does not answer.

        """
        from fsspec.core import url_to_fs

        self._url, self._limit, self._note = url, limit, note
        try:
            self._files, root = url_to_fs(url)
            self._root = root.rstrip("/")
            self._usable = self._open()
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - every implementation of fsspec raises its own
            raise UsageError(
                f"the cache cannot be opened ({type(error).__name__}: {error})",
                where=url,
                hint="an fsspec URL such as s3://bucket/folder, and its package (s3fs, gcsfs, …) installed",
            ) from None

    def _open(self) -> bool:
        marker = f"{self._root}/{MARKER}"
        if not self._files.exists(marker):
            self._files.makedirs(self._root, exist_ok=True)
            if self._listed(self._root) and not self._files.exists(marker):
                raise UsageError(
                    "the place holds files that are not of a cache",
                    where=self._url,
                    hint="give --cache an empty or new folder",
                )
            self._files.pipe_file(marker, marker_text().encode())
        return is_of_this_format(self._files.cat_file(marker), self._url, self._note)

    def _listed(self, folder: str) -> list[str]:
        """Return what is in a folder now, whoever has written it; of one where nothing is, some places know nothing."""
        self._files.invalidate_cache()
        try:
            return [str(p).rstrip("/").rpartition("/")[2] for p in self._files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def entries(self, key: str) -> Iterator[Entry]:
        """Yield the sound entries of a key, see `Store`."""
        try:
            names = sorted(self._listed(f"{self._root}/{key}")) if self._usable else []
        except Exception:  # noqa: BLE001 - not to be reached: then nothing is there
            return
        for name in names:
            entry = self._read(key, name)
            if entry is not None:
                yield entry

    def fetch(self, entry: Entry, into: Path) -> bool:
        """Copy the files of an entry, see `Store`."""
        place = f"{self._place(entry)}/{entry.facts.get(PLACE, '')}"
        try:
            for name, (size, digest) in entry.files.items():
                with self._files.open(f"{place}/{name}", "rb") as opened:
                    copy_checked(opened, into / name, size, digest)
        except EntryDamaged as error:
            self._note(f"an entry of the cache is damaged and made again ({error})")
            self.drop(entry)
            return False
        except Exception as error:  # noqa: BLE001 - the network, or a file that is gone
            self._note(f"an entry of the cache {self._url} cannot be read ({type(error).__name__}): made again")
            return False
        return True

    def put(self, key: str, name: str, facts: Mapping[str, Any], files: Path) -> bool:
        """Upload files, then the listing, see `Store`."""
        if not self._usable:
            return False
        needed = sum(p.stat().st_size for p in files.rglob("*") if p.is_file())
        if needed > self._limit:
            self._note(f"{shown_size(needed)} are not kept: the cache holds {shown_size(self._limit)} at most")
            return False
        own = f"{FILES}-{uuid.uuid4().hex}"
        place = f"{self._root}/{key}/{name}"
        try:
            self._make_room(needed)
            for path in sorted(p for p in files.rglob("*") if p.is_file()):
                target = f"{place}/{own}/{path.relative_to(files).as_posix()}"
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), target)
            listing = listing_of(key, name, {**facts, PLACE: own}, files)
            self._files.pipe_file(f"{place}/{LISTING}", listing)
        except Exception as error:  # noqa: BLE001 - a cache that cannot be written only costs time
            self._note(f"the cache {self._url} cannot be written ({type(error).__name__}: {error}): not kept")
            return False
        return True

    def drop(self, entry: Entry) -> None:
        """Remove an entry, its listing first."""
        self._remove(self._place(entry))

    def _place(self, entry: Entry) -> str:
        return f"{self._root}/{entry.key}/{entry.name}"

    def _read(self, key: str, name: str) -> Entry | None:
        path = f"{self._root}/{key}/{name}/{LISTING}"
        try:
            with self._files.open(path, "rb") as opened:
                return read_listing(opened.read(MOST_BYTES), key, name)
        except EntryDamaged as error:
            self._note(f"an entry of the cache is damaged and made again ({error})")
            self._remove(path.rpartition("/")[0])
        except Exception:  # noqa: BLE001 - another process has removed it, or has not written its listing yet
            return None
        return None

    def _remove(self, place: str) -> None:
        for path in (f"{place}/{LISTING}", place):
            try:
                self._files.rm(path, recursive=True)
            except Exception:  # noqa: BLE001, S112 - somebody else may have removed it
                continue

    def _make_room(self, needed: int) -> None:
        """Remove the oldest places: what a killed upload has left counts too, what is not ours does not."""
        self._files.invalidate_cache()
        sizes: dict[str, int] = {}
        written: dict[str, str] = {}
        for path, told in self._files.find(self._root, detail=True).items():
            parts = str(path).partition(f"{self._root}/")[2].split("/")
            if len(parts) < 3 or not all(re.fullmatch("[0-9a-f]+", p) for p in parts[:2]):
                continue
            place = f"{self._root}/{parts[0]}/{parts[1]}"
            sizes[place] = sizes.get(place, 0) + int(told.get("size") or 0)
            written[place] = max(written.get(place, ""), next((str(told[w]) for w in WRITTEN if told.get(w)), ""))
        over = sum(sizes.values()) + needed - self._limit
        for place in sorted(sizes, key=lambda p: written[p]):
            if over <= 0:
                break
            self._remove(place)
            over -= sizes[place]
