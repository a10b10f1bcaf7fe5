"""Memory, disk or the size of a file that ran out, whatever library says so and however it says it."""

import errno
import re
import shutil
from pathlib import Path

from converter.errors import ResourceLimit

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory", "failed to allocate memory"),
    *(
        "unable to allocate",
        "could not allocate",
        "failed to map segment",
        "can't start new thread",
        "not enough memory",
    ),
)
"""What torch, ONNX Runtime, LiteRT, numpy, safetensors and the loader of shared libraries say, in lower case."""
NO_DISK = re.compile(r"no space left on device|disk quota exceeded|\d+ requested and \d+ written", re.IGNORECASE)
"""The last is what numpy says of an array that it could not write, without the number of the error."""
TOO_LARGE = re.compile(r"file too large|file size limit exceeded", re.IGNORECASE)
DEEPEST = 50


def exhausted(error: BaseException, stage: str = "", where: Path | None = None) -> ResourceLimit | None:
    """Return the resource limit that is behind an error; None where none is.

    What was raised on the way counts: a library, or a stage, may have said something else of it. `where` is the folder
    that is written to.
    """
    found: BaseException | None = error
    for _ in range(DEEPEST):
        if found is None:
            return None
        if isinstance(found, ResourceLimit):
            return found
        if _is_full(found):
            return _disk(found, stage, where)
        if _is_too_large(found):
            return _file(found, stage, where)
        if _is_starved(found):
            return _memory(found, stage)
        found = found.__cause__ or found.__context__
    return None


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return _of_library(error) and NO_DISK.search(str(error)) is not None


def _is_too_large(error: BaseException) -> bool:
    """Tell whether one file was too large for its disk (FAT: 4 GB) or for the process: other files may have room."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.EFBIG
    return _of_library(error) and TOO_LARGE.search(str(error)) is not None


def _is_starved(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return _of_library(error) and any(text in str(error).lower() for text in NO_MEMORY)


def _of_library(error: BaseException) -> bool:
    """Tell whether an error is of the kinds that libraries raise: those about a user's own words may say anything."""
    return isinstance(error, (RuntimeError, ImportError, OSError)) or type(error).__module__.startswith(
        ("onnxruntime", "safetensors", "pyo3", "torch")
    )


def _disk(error: BaseException, stage: str, where: Path | None) -> ResourceLimit:
    named = getattr(error, "filename", None)
    place = str(named or where or "")
    free = "" if where is None else free_space(where)
    return ResourceLimit(
        f"the disk is full{free}{_at(stage)}; nothing was changed",
        where=place,
        hint="free some space, or choose another -o",
    )


def _file(error: BaseException, stage: str, where: Path | None) -> ResourceLimit:
    return ResourceLimit(
        f"a file became larger than the system allows{_at(stage)}; nothing was changed",
        where=str(getattr(error, "filename", None) or where or ""),
        hint="raise the process's limit (ulimit -f), or choose an -o on another disk: FAT holds files of up to 4 GB",
    )


def free_space(where: Path) -> str:
    """Return what is left of the disk that holds `where`, for a message; what a run has half made is still there."""
    existing = next(p for p in (where, *where.absolute().parents) if p.exists())
    return f" ({shutil.disk_usage(existing).free / 1e6:.1f} MB left)"


def _memory(error: BaseException, stage: str) -> ResourceLimit:
    said = (str(error).strip().splitlines() or [""])[0][:160]
    return ResourceLimit(
        f"memory ran out{_at(stage)}{f' ({said})' if said else ''}; nothing was changed",
        hint="close other programs, raise the limit that the system sets (ulimit -v), or use a smaller model",
    )


def _at(stage: str) -> str:
    return f" at the stage {stage!r}" if stage else ""
