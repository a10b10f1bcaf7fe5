"""One run at a time into an output folder: locks of the kernel, which end with the process that holds them."""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from converter.errors import UsageError
from converter.package.output_marker import TOOL, read_small_json

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
SECONDS_BETWEEN_TRIES = 0.2


class OutputLock:
    """A lock file, and the folder itself where it exists already: it may be reached by another name, through a link.

    Attributes:
        proven: whether the file system has locks. Where it has none, nothing tells whether another run is still alive.

    """

    def __init__(self, out: Path, file: Path, others: tuple[Path, ...]) -> None:
        """`others` are the lock files of runs that reach the same folder by another name: they say who that is."""
        self._out, self._file, self._others = out, file, others
        self._held: list[int] = []
        self.proven = True

    def acquire(self, note: Callable[[str], None], *, wait: bool) -> None:
        """Take the lock, at once or, with `wait`, when the run that holds it has ended.

        Raises:
            UsageError: another run holds it and `wait` is off, or somebody else's file stands in its place.

        """
        told = False
        while not self._try():
            who = self._holder()
            if not wait:
                raise UsageError(
                    f"another run{who} is writing to this folder",
                    where=str(self._out),
                    hint="choose another -o, or add --wait to begin when that run has ended",
                )
            if not told:
                note(f"waiting for another run{who} that is writing to {self._out}")
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        if not self.proven:
            note(f"{self._out} is on a file system without locks: let no second run write there meanwhile")

    def release(self) -> None:
        """Remove the lock file while it is still held: whoever has opened it before sees that it is gone."""
        if self._held and _is_ours(self._file):
            with contextlib.suppress(OSError):
                self._file.unlink()
        while self._held:
            os.close(self._held.pop())

    @contextlib.contextmanager
    def stale(self) -> Iterator[bool]:
        """Hold the lock of a run that was killed and remove its file at the end; yields whether there is one."""
        if not _is_ours(self._file):
            yield False
            return
        opened = os.open(self._file, os.O_RDWR | os.O_NOFOLLOW)
        try:
            held = _flock(opened)
            yield held
            if held:
                self._file.unlink()
        finally:
            os.close(opened)

    def _try(self) -> bool:
        while True:
            opened = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            self._held.append(opened)
            if not self._lock(opened):
                self._drop()
                return False
            if self._is_there(opened):
                break
            self._drop()
        if not _is_ours(self._file):
            self._drop()
            raise UsageError(
                "this name is wanted for a lock, and the file there is not this tool's",
                where=str(self._file),
                hint="choose another -o, or move the file away",
            )
        if not self._lock_folder():
            self.release()
            return False
        os.ftruncate(opened, 0)
        os.write(opened, json.dumps({"tool": TOOL, "pid": os.getpid()}).encode())
        return True

    def _lock_folder(self) -> bool:
        if self._out.is_dir():
            folder = os.open(self._out, os.O_RDONLY | os.O_DIRECTORY)
            self._held.append(folder)
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                return _flock(folder)
        return True

    def _drop(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def _lock(self, opened: int) -> bool:
        try:
            return _flock(opened)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self.proven = False
            return True

    def _is_there(self, opened: int) -> bool:
        """Tell whether the file that was locked still has its name: the run that held it may just have removed it."""
        try:
            return os.path.samestat(os.fstat(opened), self._file.lstat())
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        for file in (self._file, *self._others):
            table = read_small_json(file)
            if isinstance(table, dict) and isinstance(table.get("pid"), int) and table["pid"] != os.getpid():
                return f" (process {table['pid']})"
        return ""


def _flock(opened: int) -> bool:
    """Return whether the lock was got.

    Raises:
        OSError: the file system knows no such locks.

    """
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        raise
    return True


def _is_ours(file: Path) -> bool:
    """Whether it is a lock file of this tool: empty where its run was killed before it could write its number."""
    table = read_small_json(file)
    if isinstance(table, dict):
        return table.get("tool") == TOOL
    try:
        return file.lstat().st_size == 0
    except OSError:
        return False
