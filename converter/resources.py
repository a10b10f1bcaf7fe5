"""Memory, disk and threads: given back when no longer used, asked for before they are needed."""

import contextlib
import ctypes
import gc
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from converter.errors import ResourceLimit

LARGE_BYTES = 256_000_000
"""Weights of a model of which no second copy may wait until Python looks for cycles by itself."""


def release_memory(*, cycles: bool = True) -> None:
    """Collect reference cycles and return the C library's free blocks to the system.

    `cycles` False: the blocks alone. Beside a model that was just exported it takes half a second to look for cycles.

    glibc keeps freed blocks of a few megabytes, which is what a model's weights are: after an inference session of a
    BERT-base model more than half a gigabyte stayed with the process.
    """
    if cycles:
        gc.collect()
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        # Another C library (musl): it returns large blocks by itself.
        return


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
