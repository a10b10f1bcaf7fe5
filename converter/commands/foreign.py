"""Limits around what a package makes its runtime do: its graphs may come from anybody, and may never end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from converter.bounds.watch import LimitReached, Limits, disk_bytes, memory_bytes, watched
from converter.commands.session import Session

SECONDS = "10m"
MEMORY = "2 GB and 8 times its files"
LIBRARIES, COPIES = 2 * 10**9, 8
"""What the libraries take with room to spare, and how often weights are in memory: unpacked, packed by signature."""


def usual_memory(package: Path) -> int:
    """Return bytes that no package of this size needs, for those who set no limit.

    What a process holds before it begins, which runs more than this command, is not the package's.
    """
    return memory_bytes() + LIBRARIES + COPIES * disk_bytes([package])


@contextlib.contextmanager
def held(session: Session, package: Path, memory: int | None, seconds: float | None) -> Iterator[None]:
    """Hold what is done with a package to limits of memory (bytes) and time.

    Raises:
        ResourceLimit: a limit was reached; says which, and at what figure.

    """
    try:
        with watched(Limits(memory, None, seconds), stage=lambda: package.name, give_up=session.last_word):
            yield
    except LimitReached as reached:
        raise reached.error from None
