"""Limits of memory, disk and time that a run is held to while it runs."""

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from converter.bounds.sizes import shown_size
from converter.errors import ExportError, ResourceLimit

BETWEEN_LOOKS = 0.05
LOOKS_BETWEEN_DISK = 10
"""Counting files and other processes takes longer than reading one's own memory."""
SECONDS_TO_STOP = 10.0
"""What a run has to clean up by itself; a library that does not return is then cut off."""
SIGNAL = signal.SIGUSR1
STATM = Path("/proc/self/statm")
CONTAINER = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
TAKEN_BACK = ("inactive_file", "active_file", "slab_reclaimable")
STARVED_BELOW = 2 << 20
"""Bytes of address space below which Python maps no more memory for its objects (it maps 1 MiB at once)."""
SECONDS_STARVED = 15.0
"""A run that is so short of addresses does not always fail: it may go on for long, each object by a failed call."""


class Stoppable(Protocol):
    """What runs where no signal of Python reaches it, and can be told to come back."""

    def stop(self) -> None: ...


STOPPED_AT_LIMITS: "weakref.WeakSet[Stoppable]" = weakref.WeakSet()
"""Runners that are open; each adds itself."""


@dataclass(frozen=True)
class Limits:
    """What a run may take at most; None: as much as there is."""

    memory: int | None = None
    """Bytes of this process and those that it started (resident size)."""
    disk: int | None = None
    """Bytes of what it writes, half-made files included."""
    seconds: float | None = None

    @property
    def none(self) -> bool:
        return self.memory is None and self.disk is None and self.seconds is None


NO_LIMITS = Limits()


class Stopped(KeyboardInterrupt):
    """Raised in the main thread of a run that is to end: nothing on the way takes it for its own error."""

    def __init__(self, error: ExportError) -> None:
        super().__init__(str(error))
        self.error = error


class LimitReached(Stopped):
    """A limit was reached."""


@dataclass
class Doing:
    """What a run is doing, for messages: the titles of the tasks that are open."""

    progress: Any
    """Where it is shown: a `converter.stage.Progress`."""
    titles: tuple[str, ...] = ()
    failed_at: str = ""

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Any]:
        before = self.titles
        self.titles, self.failed_at = (*before, title), ""
        try:
            with self.progress.task(title, total) as ticker:
                yield ticker
        except BaseException:
            self.failed_at = self.failed_at or title
            raise
        finally:
            self.titles = before

    def note(self, text: str) -> None:
        self.progress.note(text)

    @property
    def stage(self) -> str:
        return self.failed_at or (self.titles[-1] if self.titles else "")


@contextlib.contextmanager
def watched(
    limits: Limits,
    *,
    stage: Callable[[], str] = lambda: "",
    folders: Callable[[], list[Path]] = list,
    give_up: Callable[[ResourceLimit], None] = lambda _: None,
) -> Iterator[None]:
    """Raise `LimitReached` in the main thread as soon as a limit is reached.

    Where the main thread does not stop within seconds, because a library does not come back from a call, `give_up` is
    told, which removes what is half made and says why; then the process ends with the exit code of a resource limit.
    In any other thread than the main one nothing is watched.
    """
    unlimited = limits.none and address_space_left() is None
    if unlimited or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(limits, stage, folders, give_up)
    before = signal.signal(SIGNAL, watch.stop)
    watch.thread.start()
    try:
        yield
    except BaseException:
        if watch.error is not None:  # whatever a library made of being stopped
            raise LimitReached(watch.error) from None
        raise
    finally:
        watch.ended.set()
        watch.thread.join()
        signal.signal(SIGNAL, before)


class _Watch:
    def __init__(
        self,
        limits: Limits,
        stage: Callable[[], str],
        folders: Callable[[], list[Path]],
        give_up: Callable[[ResourceLimit], None],
    ) -> None:
        self.limits, self.stage, self.folders, self.give_up = limits, stage, folders, give_up
        self.started = time.monotonic()
        self.starved: float | None = None
        """When addresses ran short; None where they have not."""
        self.ended = threading.Event()
        self.error: ResourceLimit | None = None
        self.thread = threading.Thread(target=self._look, name="limits", daemon=True)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal that the watching thread sends."""
        if self.error is not None and not self.ended.is_set():
            raise LimitReached(self.error)

    def _look(self) -> None:
        looks = 0
        while not self.ended.wait(BETWEEN_LOOKS):
            self.error = self._broken(thoroughly=looks % LOOKS_BETWEEN_DISK == 0)
            looks += 1
            if self.error is None:
                continue
            for runner in list(STOPPED_AT_LIMITS):
                runner.stop()
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
            if not self.ended.wait(SECONDS_TO_STOP):
                _end_children()
                try:
                    self.give_up(self.error)
                finally:
                    os._exit(ResourceLimit.exit_code)
            return

    def _broken(self, *, thoroughly: bool) -> ResourceLimit | None:
        limits = self.limits
        if limits.seconds is not None and time.monotonic() - self.started > limits.seconds:
            return self._reached("time", f"{limits.seconds:g} s are over", "--timeout")
        if limits.memory is not None:
            used = memory_bytes(children=thoroughly)
            if used > limits.memory:
                figure = f"{shown_size(used)} of memory are in use, {shown_size(limits.memory)} are allowed"
                return self._reached("memory", figure, "--max-memory")
        if limits.disk is not None and thoroughly:
            used = disk_bytes(self.folders())
            if used > limits.disk:
                figure = f"{shown_size(used)} are written, {shown_size(limits.disk)} are allowed"
                return self._reached("disk", figure, "--max-disk")
        return self._out_of_addresses()

    def _out_of_addresses(self) -> ResourceLimit | None:
        left = address_space_left()
        if left is None or left >= STARVED_BELOW:
            self.starved = None
            return None
        self.starved = self.starved or time.monotonic()
        if time.monotonic() - self.starved < SECONDS_STARVED:
            return None
        return self._reached("address space", f"{shown_size(left)} are left of what the system allows", "ulimit -v")

    def _reached(self, what: str, figure: str, flag: str) -> ResourceLimit:
        stage = self.stage()
        at = f" at the stage {stage!r}" if stage else ""
        return ResourceLimit(
            f"the limit of {what} was reached{at}: {figure}; nothing was left behind",
            hint=f"raise {flag}, or make less at once: a smaller model, fewer targets",
        )


def memory_bytes(*, children: bool = True) -> int:
    """Return the resident size of this process and, if wanted, of those that it started."""
    import psutil

    me = psutil.Process()
    used = int(me.memory_info().rss)
    for child in me.children(recursive=True) if children else ():
        with contextlib.suppress(psutil.Error):
            used += int(child.memory_info().rss)
    return used


def address_space_left() -> int | None:
    """Return the bytes that this process may still map; None where the system sets no limit (`ulimit -v`)."""
    if not STATM.is_file():
        return None
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY:
        return None
    return int(allowed) - int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def check_address_space(needed: int) -> None:
    """Raise `ResourceLimit` where the system does not let this process map `needed` bytes more."""
    left = address_space_left()
    if left is not None and left < needed:
        raise ResourceLimit(
            f"the run needs at least {shown_size(needed)} more of address space, and the system leaves "
            f"{shown_size(max(left, 0))}; nothing was made",
            hint="raise the limit that the system sets (ulimit -v), or use a smaller model",
        )


def disk_bytes(folders: list[Path]) -> int:
    """Return the bytes of all files in some folders, as far as they are there."""
    used = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    found = (Path(root) / name).lstat()
                    used += min(found.st_size, found.st_blocks * 512)
    return used


def check_estimate(limits: Limits, *, memory: int = 0, disk: int = 0, part: str = "") -> None:
    """Raise `ResourceLimit` where a run would take more than it may, before it starts.

    `part` is what of the run takes the most memory.
    """
    most = f" (for {part})" if part else ""
    for what, needed, allowed, flag in (
        ("memory", memory, limits.memory, "--max-memory"),
        ("disk space", disk, limits.disk, "--max-disk"),
    ):
        if allowed is not None and needed > allowed:
            raise ResourceLimit(
                f"the run needs about {shown_size(needed)} of {what}{most if what == 'memory' else ''}, "
                f"{shown_size(allowed)} are allowed; nothing was made",
                hint=f"raise {flag}, or make less at once: a smaller model, fewer targets",
            )


def available_memory() -> int:
    """Return the bytes that this process may still take: of the machine, and of the container that it runs in."""
    import psutil

    return max(min(int(psutil.virtual_memory().available), *_left_in_containers()), 0)


def _left_in_containers() -> list[int]:
    """Return what each control group that this process is in leaves, those without a limit aside."""
    found = [sys.maxsize]
    for root, allowed, used, own in _containers():
        for folder in (root / own, *(root / own).parents):
            with contextlib.suppress(OSError, ValueError):  # it is not there, or has no limit
                most, taken = (int((folder / name).read_text(encoding="ascii")) for name in (allowed, used))
                found.append(most - taken + _given_back(folder))
            if folder == root:
                break
    return found


def _containers() -> Iterator[tuple[Path, str, str, str]]:
    """Yield root, files of limit and of use, and this process's own group of both versions of control groups."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        rows = (line.split(":", 2) for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines())
        own = {kind: path.lstrip("/") for _, kinds, path in rows for kind in kinds.split(",") if ".." not in path}
    yield CONTAINER, "memory.max", "memory.current", own.get("", "")
    yield CONTAINER / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", own.get("memory", "")


def _given_back(folder: Path) -> int:
    """Return the bytes among what a control group uses that the system takes back when others need them.

    Pages of files, lately used or not, and what the kernel knows of them. Shared memory is in neither list of files.
    """
    rows = [line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()]
    stat = {row[0]: int(row[1]) for row in rows}
    # In version 1 the plain names leave groups below out, which the use counts.
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in TAKEN_BACK)


def check_available(needed: int, available: int | None = None, *, part: str = "") -> None:
    """Raise `ResourceLimit` where the machine has less memory left than a run needs, which would be killed on the way.

    `available` bytes; None: what this machine has now. `part` is what of the run takes the most.
    """
    left = available_memory() if available is None else available
    if needed > left:
        most = f" (for {part})" if part else ""
        raise ResourceLimit(
            f"the run needs about {shown_size(needed)} more of memory{most}, and this machine has "
            f"{shown_size(left)} left; nothing was made",
            hint="close other programs, use a machine with more memory, or a smaller model",
        )


def _end_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
