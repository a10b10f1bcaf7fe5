"""A process of a search times its package while the others stand still: beside them small models look slower.

Whoever has begun the processes stops and wakes them. Should it end before it wakes them, the system does (Linux), and
they end too; where that cannot be asked for, none is stopped.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from multiprocessing import connection

ASKS, MAY, HAS = "wants to time", "may time", "has timed"
"""What is sent between a process and whoever has begun it."""
POSSIBLE = sys.platform == "linux"
_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of `prctl`."""


class Stoppable(Protocol):
    """A process and the connection to it, and how many seconds it has stood still."""

    process: Any
    asked: "connection.Connection"
    stood: float


@contextlib.contextmanager
def standing_alone(asked: "connection.Connection") -> Iterator[None]:
    """Let the other processes of the search stand still."""
    if not POSSIBLE:
        yield
        return
    asked.send(ASKS)
    asked.recv()
    try:
        yield
    finally:
        asked.send(HAS)


def end_when_orphaned() -> None:
    """End this process, even where it stands still, when the one that has begun it is gone: nobody takes what it makes.

    It would hold cores and folders for minutes otherwise, which the search needs when it is started again.
    """
    begun_by = parent_process()
    if not POSSIBLE or begun_by is None:
        return

    def woken(_number: int, _frame: FrameType | None) -> None:
        if os.getppid() != begun_by.pid:
            sys.exit(1)  # what is half written is removed on the way out

    signal.signal(signal.SIGCONT, woken)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGCONT)


@contextlib.contextmanager
def no_two_at_once(folder: Path | None = None) -> Iterator[None]:
    """Let no other process of this machine and user time meanwhile, whoever has begun it.

    The system takes the lock from a process that is killed. `folder` None: where temporary folders are made.
    """
    place = (folder or Path(tempfile.gettempdir())) / f"plm-export-timing-{os.geteuid()}.lock"
    try:
        opened = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # not ours to open: it is timed as it is
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


class Turns:
    """Which of some processes may time: one, while all others stand still; then the next one that has asked.

    While one is `timing`, nothing is to be read from the others, nor written to them: they may have been stopped in the
    middle of a message.
    """

    def __init__(self) -> None:
        self.timing: Stoppable | None = None
        self._waiting: deque[Stoppable] = deque()
        self._since = 0.0

    def take(self, said: str, one: Stoppable, every: "Sequence[Stoppable]") -> None:
        """Do what a process asks for, one of `every` that can be stopped."""
        if said == ASKS:
            self._waiting.append(one)
        self._go_on(every, ended=self.timing is one)

    def without(self, one: Stoppable, every: "Sequence[Stoppable]") -> None:
        """Go on without a process that is lost; `every` are those that are left."""
        wake(one)  # it is to end
        if one in self._waiting:
            self._waiting.remove(one)
        self._go_on(every, ended=self.timing is one)

    def _go_on(self, every: "Sequence[Stoppable]", *, ended: bool) -> None:
        if ended:
            for other in every:
                other.stood += time.perf_counter() - self._since if other is not self.timing else 0.0
            self.timing = None
        if self.timing is not None:
            return
        if not self._waiting:
            for one in every:
                wake(one)
            return
        one = self._waiting.popleft()
        self.timing, self._since = one, time.perf_counter()
        for other in every:
            if other is not one:
                _signal(other, signal.SIGSTOP)
        wake(one)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone: that is seen when it is read
            one.asked.send(MAY)


def wake(one: Stoppable) -> None:
    """Let a process go on."""
    if POSSIBLE:
        _signal(one, signal.SIGCONT)


def _signal(one: Stoppable, sent: signal.Signals) -> None:
    if one.process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.process.pid, sent)
