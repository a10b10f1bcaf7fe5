"""Every deliberate error, with its exit code.

A message says where and what; `hint` says what to do next. Anything else that escapes is a bug and shows a traceback.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ExportError(Exception):
    """Root of all deliberate errors: `str(error)` is one line, `hint` the next step."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
        self.hint = hint


class UsageError(ExportError):
    """The command line or an API call asks for something that does not exist."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe key or value is unknown, of the wrong type or out of range."""


class DataError(UsageError):
    """An evaluation or calibration file cannot be used; `where` is file and line."""


class GateFailed(ExportError):
    """A package does not answer like its source within the limits."""

    exit_code = 3


class SourceError(ExportError):
    """The model cannot be read, or is refused (pickle, remote code, damaged weights)."""

    exit_code = 4


class RuntimeMissing(ExportError):
    """A target needs a package that is not installed, or a device that is not there."""

    exit_code = 5


class PackageDamaged(ExportError):
    """A sealed package does not match its manifest or its golden vectors."""

    exit_code = 6


class ResourceLimit(ExportError):
    """Disk or memory ran out, or would."""

    exit_code = 7


class StageFailed(ExportError):
    """A stage made something that breaks the specification of its representation."""

    exit_code = 3


INTERRUPTED_EXIT_CODE = 130


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint naming the closest of `choices`, or all of them where none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there is none to choose from"
