"""Give back what is no longer used, so that a large model is never held twice."""

import ctypes
import gc
import sys


def release_memory() -> None:
    """Collect reference cycles and return the C library's free blocks to the system.

    glibc keeps freed blocks of a few megabytes, which is what a model's weights are: after an inference session of a
    BERT-base model more than half a gigabyte stayed with the process.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        # Another C library (musl): it returns large blocks by itself.
        return
