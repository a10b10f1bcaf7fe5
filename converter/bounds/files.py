"""Files from outside: regular ones only, their size looked at before they are read."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MEGABYTE = 1_000_000
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnfitFileError(ValueError):
    """A file must not be read, or does not hold what it should; its text says why, without the path."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read its bytes: what waits for a writer, or never ends, is not opened.

    Raises:
        UnfitFileError: it is a pipe, a socket, a device or a folder.
        OSError: it is missing or cannot be opened.

    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_kind(os.fstat(descriptor).st_mode)
    except UnfitFileError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as opened:
        yield opened


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        UnfitFileError: it is no regular file, or larger.
        OSError: it is missing or cannot be read.

    """
    with open_regular(path) as opened:
        refuse_size(os.fstat(opened.fileno()).st_size, limit)
        # Some files, such as those of /proc, do not say how large they are.
        content = opened.read(limit + 1)
    refuse_size(len(content), limit)
    return content


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def files_of(top: Path) -> Iterator[Path]:
    """Yield a file itself, or all files in a folder in the order of their paths, behind links too, each folder once."""
    if top.is_file():
        yield top
        return
    found, seen = [], {top.resolve()}
    for folder, inside, names in os.walk(top, followlinks=True):
        new = {name: real for name in inside if (real := Path(folder, name).resolve()) not in seen}
        inside[:] = sorted(new)
        seen.update(new.values())
        found += [path for name in names if (path := Path(folder, name)).is_file()]
    yield from sorted(found)


def sha256_tree(top: Path) -> str:
    """Return the SHA-256 of a file's content, or of all names and contents in a folder."""
    made = hashlib.sha256()
    for one in files_of(top):
        made.update(f"{one.relative_to(top).as_posix()}\0{one.stat().st_size}\0".encode())
        made.update(bytes.fromhex(sha256_file(one)))
    return made.hexdigest()


def refuse_size(size: int, limit: int) -> None:
    if size > limit:
        raise UnfitFileError(
            f"it has {size / MEGABYTE:.1f} MB, and at most {limit / MEGABYTE:.0f} MB of such a file are read"
        )


def refuse_unfit(path: Path, limit: int | None = None) -> None:
    """Look at a file that a library will read: a regular one, of at most `limit` bytes.

    Raises:
        UnfitFileError: it is not.
        OSError: it is missing, or a link to nothing.

    """
    found = path.stat()
    _refuse_kind(found.st_mode)
    if limit is not None:
        refuse_size(found.st_size, limit)


def _refuse_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "something else")
        raise UnfitFileError(f"it is {kind}, wanted a file")
