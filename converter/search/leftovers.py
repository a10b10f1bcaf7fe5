"""Folders of workers of a search: each removes its own, and those of workers of this machine that were killed."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

import psutil

PREFIX = "plm-export-trials-"
NAMED = re.compile(re.escape(PREFIX) + r"(\d+)-")


def own_folder() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder that tells the process it belongs to, and that is locked as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(os.open(folder.name, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)  # open until the process ends
    return folder


def remove_leftovers(place: Path | None = None) -> None:
    """Remove folders of this user's workers that are gone; `place` None: where temporary folders are made."""
    with contextlib.suppress(OSError):
        for folder in (place or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    named = NAMED.match(folder.name)
    if named is None or psutil.pid_exists(int(named[1])):
        return False
    try:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            return False
        opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # Of another container that shares the folder no process is seen from here, but its lock is.
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(opened)
    return True
