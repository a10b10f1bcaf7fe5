"""Folders of workers of a search: each removes its own, and those of workers of this machine that were killed."""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from converter.bounds.scratch import own_prefix, remove_of_dead

PREFIX = "plm-export-trials-"


def own_folder() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder that tells the process it belongs to, and that is locked as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix=own_prefix(PREFIX))
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(os.open(folder.name, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)  # open until the process ends
    return folder


def remove_leftovers(place: Path | None = None) -> None:
    """Remove folders of this user's workers that are gone; `place` None: where temporary folders are made."""
    remove_of_dead(PREFIX, place)
