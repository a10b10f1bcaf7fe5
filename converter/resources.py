"""Memory, disk and threads: given back when no longer used, asked for before they are needed."""

import contextlib
import ctypes
import functools
import gc
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from converter.errors import ResourceLimit

Item = TypeVar("Item")
Made = TypeVar("Made")

_DONT_NEED = 4
"""`MADV_DONTNEED` on Linux: pages of a mapped file that nobody wrote to are read again when they are asked for."""
AT_ONCE = 2
"""Pieces of work beside each other: each holds a matrix or two, and more would hold more."""
MAPS, PAGEMAP, SMAPS = (Path("/proc/self") / name for name in ("maps", "pagemap", "smaps"))
_BLOB = re.compile(r"/blobs/[0-9a-f]{40}(?:[0-9a-f]{24})?$")
"""The kernel names the file that a link leads to, which in a Hub cache is called by its hash."""
_CHANGED = ("Anonymous", "Swap")
"""What `smaps` counts of a private mapping that is no longer the file's."""
_PAGE_ENTRY = 8
"""Bytes of `/proc/self/pagemap` about each page; their highest bits say: in memory, in swap, of a file."""
_PAGE_OF_FILE = 61
_PAGES_AT_ONCE = 1 << 16
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of `mallopt` in the GNU C library."""
ANSWERS_AHEAD = 8
"""Answers to single texts that wait for one that takes longer."""
_WORTH_RELEASING = 1 << 23
_READ_BETWEEN = 1 << 26
LARGE_BYTES = 256_000_000
"""Weights of a model of which no second copy may wait until Python looks for cycles by itself."""


def cpu_facts() -> tuple[tuple[str, str], ...]:
    """Return names and values of what Linux tells of the processors, `flags` (`Features` on ARM) among them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))


def link_or_copy(given: Path, path: Path) -> None:
    """Give a file a second name where the disk allows it; else copy it."""
    try:
        os.link(given, path)
    except OSError:
        shutil.copyfile(given, path)


def release_memory(*, cycles: bool = True) -> None:
    """Collect reference cycles, return the C library's free blocks and the pages of mapped weights to the system.

    `cycles` False: the blocks alone. Beside a model that was just exported it takes half a second to look for cycles.

    glibc keeps freed blocks of a few megabytes, which is what a model's weights are: after an inference session of a
    BERT-base model more than half a gigabyte stayed with the process. A checkpoint is mapped, and what was read of it
    counts as this process's memory until another one needs it.
    """
    if cycles:
        gc.collect()
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):  # musl: it returns large blocks by itself
        library.malloc_trim(0)
    for start, length in mapped_weights():
        # Where the system refuses, the pages stay: no harm done.
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _DONT_NEED)


def return_large_blocks() -> None:
    """Have the C library give every large block back as it is freed, for the rest of this process.

    By itself glibc comes to keep blocks of up to 32 MB, between which larger ones find no room. It costs time: where
    memory is scarce alone.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl: it has no such option, nor the need for it
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, ctypes.c_int(_WORTH_RELEASING // 2))


def release_read(n_bytes: int) -> None:
    """Give pages back after a weight of `n_bytes` was read, where it is worth it.

    Looking for what is mapped takes some milliseconds, and a model has more biases than matrices.
    """
    if n_bytes > _WORTH_RELEASING:
        release_memory(cycles=False)


class PagesRead:
    """Gives the pages of mapped weights back whenever many of them were read, where all of them are read in turn."""

    def __init__(self, between: int | None = None) -> None:
        """`between`: bytes that may be read before they are given back."""
        self._since, self._between = 0, _READ_BETWEEN if between is None else between

    def add(self, n_bytes: int) -> None:
        """Take note that a weight of `n_bytes` was read."""
        self._since += n_bytes
        if self._since >= self._between:
            release_memory(cycles=False)
            self._since = 0


def mapped_weights() -> Iterator[tuple[int, int]]:
    """Yield place and length of each mapping of a file of weights of which no page was written to.

    None where the system does not tell: pages are then given back by the system alone, when another process needs them.
    """
    with contextlib.suppress(OSError):
        found = [line.partition(" ")[0].partition("-") for line in _lines(MAPS) if _is_of_weights(line)]
        places = [(int(start, 16), int(end, 16)) for start, _, end in found]
        if not places:
            return
        try:
            unwritten = _unwritten_by_table(places)
        except OSError:  # some containers and kernels do not let a process see its own table
            unwritten = _unwritten_by_sums(places)
        yield from ((start, end - start) for start, end in unwritten)


def _is_of_weights(line: str) -> bool:
    name = line.removesuffix(" (deleted)")
    return name.endswith(".safetensors") or _BLOB.search(name) is not None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _unwritten_by_table(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    with PAGEMAP.open("rb", buffering=0) as pages:
        return [place for place in places if not _written(pages, *place)]


def _unwritten_by_sums(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tell it from what `smaps` counts: it goes through all memory of the process for it, however little is weights."""
    changed: dict[str, int] = {}
    place = ""
    for line in _lines(SMAPS):
        name, _, value = line.partition(":")
        if name in _CHANGED:
            changed[place] = changed.get(place, 0) + int(value.split()[0])
        elif not name[:1].isupper():
            place = line.partition(" ")[0]
    # One that is not there, or of which it is not told, counts as written to.
    return [(start, end) for start, end in places if changed.get(f"{start:08x}-{end:08x}") == 0]


def _written(pages: BinaryIO, start: int, end: int) -> bool:
    """Tell from the kernel's table of pages whether one of a private mapping of a file is no longer the file's."""
    import numpy as np

    size = os.sysconf("SC_PAGE_SIZE")
    for at in range(start // size, end // size, _PAGES_AT_ONCE):
        n_bytes = (min(at + _PAGES_AT_ONCE, end // size) - at) * _PAGE_ENTRY
        found = os.pread(pages.fileno(), n_bytes, at * _PAGE_ENTRY)
        if len(found) < n_bytes:
            return True  # not told
        state = np.frombuffer(found, dtype=np.uint64) >> np.uint64(_PAGE_OF_FILE)
        # In memory and of the file, or in neither memory nor swap.
        if not np.isin(state & np.uint64(7), (0, 1, 5)).all():
            return True
    return False


def require_space(folder: Path, size_bytes: int) -> None:
    """Raise `ResourceLimit` where the disk has no room for `size_bytes` more.

    For libraries that map the files they write: a disk that fills up under them kills the process, and what is half
    made stays behind.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise ResourceLimit(
            f"the disk has {free / 1e6:.0f} MB left, {size_bytes / 1e6:.0f} MB are needed",
            where=str(folder),
            hint="free some space, or choose another -o",
        )


@contextlib.contextmanager
def fixed_threads(n: int) -> Iterator[None]:
    """Compute with `n` threads in PyTorch and in the libraries below numpy, whatever the environment says.

    A sum that is shared out among more threads is rounded otherwise, so that the number of threads shows in the bytes.
    """
    import scipy.linalg  # noqa: F401 - it has a BLAS of its own, which must be loaded to be told
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(limits=n):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def made_beside(make: Callable[[], Made], *, later: bool = False) -> Iterator[Callable[[], Made]]:
    """Begin `make` in a thread of its own, beside what the context does; calling what it gives waits for the result.

    `later`: it is made when it is first asked for, where both at once would take too much memory. The context is not
    left before the thread has ended, whatever was raised.
    """
    if later:
        yield functools.cache(make)
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(make).result


def made_in_threads(
    make: Callable[[Item], Made], items: Iterable[Item], *, alone: bool = False, ahead: int = AT_ONCE
) -> Iterator[Made]:
    """Yield what `make` makes of each item, in their order, up to `AT_ONCE` of them computed beside each other.

    For work that numpy or a runtime does, which lets other threads run. Each result is the same as without threads.
    `alone`: one after the other, as what must not be done at once. `ahead`: items begun before the first is taken; more
    than are computed at once where results are small, and one that takes long is not to hold up the others.
    """
    if alone:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
