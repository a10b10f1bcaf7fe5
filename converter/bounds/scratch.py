"""Folders of a process: locked as long as it lives, and found by that where it was killed."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock a folder as long as the context lasts, and remove it then; False: another process removes it already."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _is_locked(lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_if_left(folder: Path) -> None:
    """Remove a folder that no living process holds; a link is none."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(opened)


def own_prefix(prefix: str) -> str:
    """Return what the name of a folder begins with that tells its process."""
    return f"{prefix}{os.getpid()}-"


def remove_of_dead(prefix: str, place: Path | None = None) -> None:
    """Remove this user's folders of `own_prefix` whose process is gone; `place` None: where temporary folders are made.

    Of another container that shares the place no process is seen from here, but its lock is.
    """
    named = re.compile(re.escape(prefix) + r"(\d+)-")
    with contextlib.suppress(OSError):
        for folder in (place or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
            found = named.match(folder.name)
            if found is not None and not psutil.pid_exists(int(found[1])) and _is_own(folder):
                remove_if_left(folder)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody removes what belongs to others
        pass
    return True


def _is_own(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.geteuid()
    except OSError:
        return False
