"""The contract of a store: files under a key, checked by their hashes when they are read."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from converter.bounds.files import sha256_file

FORMAT = 1
"""Of an entry. Stores of another format are left alone, and not used."""
MARKER = "plm-export-cache.json"
"""Says that a place is a cache, and of which format."""
LISTING = "entry.json"
FILES = "files"
MOST_BYTES = 16_000_000
"""Of a listing."""
CHUNK = 1 << 20


class EntryDamaged(Exception):
    """An entry is not as it was written; the text says why. It is removed and made again, so never an error."""


@dataclass(frozen=True)
class Entry:
    """What was kept, without the files themselves."""

    key: str
    """Of what it was made from."""
    name: str
    """Tells entries of one key apart."""
    facts: Mapping[str, Any]
    """JSON values."""
    files: Mapping[str, tuple[int, str]]
    """Size in bytes and SHA-256 by path within the entry."""

    @property
    def size_bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


class Store(Protocol):
    """A folder of this machine, or a place behind a URL."""

    def entries(self, key: str) -> Iterator[Entry]:
        """Yield the sound entries of a key; damaged ones are removed."""
        ...

    def fetch(self, entry: Entry, into: Path) -> bool:
        """Copy an entry's files to `into`; False where it is gone or damaged (then it is removed)."""
        ...

    def put(self, key: str, name: str, facts: Mapping[str, Any], files: Path) -> bool:
        """Keep all files of the folder `files`; tells whether that was done. Never raises for want of room."""
        ...

    def drop(self, entry: Entry) -> None:
        """Remove an entry that turned out to be of no use."""
        ...


def marker_text() -> str:
    return json.dumps({"tool": "plm-export", "format": FORMAT})


def is_of_this_format(marker: bytes, where: str, note: Callable[[str], None]) -> bool:
    """Tell whether a marker is of this version's format; `note` is told where it is of another."""
    try:
        found = json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError):
        found = "unknown"
    if found != FORMAT:
        note(f"the cache {where} is of another version (format {found}, not {FORMAT}): it is not used")
    return bool(found == FORMAT)


def listing_of(key: str, name: str, facts: Mapping[str, Any], folder: Path) -> bytes:
    """Return the listing of an entry: its facts, and every file of `folder` with its hash."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, sha256_file(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    table = {"format": FORMAT, "key": key, "name": name, "facts": facts, "files": files}
    return json.dumps({"sha256": _digest(table), **table}, ensure_ascii=False).encode()


def read_listing(content: bytes, key: str, name: str) -> Entry:
    """Read a listing that should be of this key and name.

    Raises:
        EntryDamaged: it is cut off, altered, or of another entry.

    """
    try:
        table = json.loads(content)
        told = table.pop("sha256")
        if table["format"] != FORMAT or (table["key"], table["name"]) != (key, name):
            raise EntryDamaged("it is of another entry or format")
        if told != _digest(table):
            raise EntryDamaged("its listing was altered")
        files = {_inside(path): (int(size), str(digest)) for path, (size, digest) in table["files"].items()}
        return Entry(key, name, table["facts"], files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EntryDamaged(f"its listing cannot be read ({type(error).__name__})") from None


def copy_checked(given: BinaryIO, made: Path, size: int, digest: str) -> None:
    """Copy a file and hash it on the way.

    Raises:
        EntryDamaged: it has another size or hash.

    """
    made.parent.mkdir(parents=True, exist_ok=True)
    found, n = hashlib.sha256(), 0
    with made.open("wb") as written:
        while block := given.read(CHUNK):
            n += len(block)
            if n > size:
                break
            found.update(block)
            written.write(block)
    if n != size or found.hexdigest() != digest:
        raise EntryDamaged(f"{made.name} was altered or cut off")


def _digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _inside(path: str) -> str:
    """Return a path that stays inside its entry, as every sound one does."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise EntryDamaged(f"it names {path!r}")
    return path
