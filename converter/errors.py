"""Every deliberate error, with its exit code.

A message says where and what; `hint` says what to do next. Anything else that escapes is a bug and shows a traceback.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ExportError(Exception):
    """Root of all deliberate errors: `str(error)` is one line, `hint` the next step."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "PLM000"
    """Stable, and documented with its cause (the class's docstring) and cure in docs/reference/errors.md."""
    cure: ClassVar[str] = ""

    def __init__(self, message: str, *, where: str = "", hint: str = "", cause: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
        self.hint = hint
        self.cause = cause
        """Which of several reasons of the same code, where there is a table of them."""

    @property
    def full_code(self) -> str:
        """The code, with the reason behind a slash where there is one: `PLM400/link-outside`."""
        return f"{self.code}/{self.cause}" if self.cause else self.code


class UsageError(ExportError):
    """The command line or an API call asks for something that does not exist."""

    exit_code = 2
    code = "PLM200"
    cure = "read the hint; `plm-export COMMAND --help` lists arguments and flags"


class RecipeError(UsageError):
    """A recipe key or value is unknown, of the wrong type or out of range."""

    code = "PLM201"
    cure = "correct the key that is named; `plm-export describe NAME` shows the options of a method"


class DataError(UsageError):
    """An evaluation or calibration file cannot be used; `where` is file and line."""

    code = "PLM202"
    cure = "correct the line that is named, or name the columns with `--columns`"


class GateFailed(ExportError):
    """A package does not answer like its source within the limits."""

    exit_code = 3
    code = "PLM300"
    cure = "report.html shows the check and the texts; try another `--quantize`, or calibrate on text of your own"


class NotProven(GateFailed):
    """A package was made, and a check that decides could not be run."""

    code = "PLM301"
    cure = "evaluate on text of your application: `--eval` with labels, or `--calibration`"


class SourceError(ExportError):
    """The model cannot be read, or is refused (pickle, remote code, damaged weights)."""

    exit_code = 4
    code = "PLM400"
    cure = "do what the hint says; the reasons are listed below"


class RuntimeMissing(ExportError):
    """A target needs a package that is not installed, or a device that is not there."""

    exit_code = 5
    code = "PLM500"
    cure = "install the extra that the hint names, or use a machine that has the device"


class PackageDamaged(ExportError):
    """A sealed package does not match its manifest or its golden vectors."""

    exit_code = 6
    code = "PLM600"
    cure = "fetch the package again, or rebuild it; where a signature is wrong, ask who made it"


class ResourceLimit(ExportError):
    """Disk or memory ran out, or would."""

    exit_code = 7
    code = "PLM700"
    cure = "free disk space or memory, or use a smaller model"


class StageFailed(ExportError):
    """A stage made something that breaks the specification of its representation."""

    exit_code = 3
    code = "PLM302"
    cure = "try the step alone or with other options, and report it with the recipe"


INTERRUPTED_EXIT_CODE = 130
INTERRUPTED_CODE = "PLM130"


class EndedElsewhere(ExportError):
    """Another process of the same launch (`torchrun`, `accelerate launch`) has ended with an error, so all end."""

    exit_code = 7  # of this class; an instance has the other's
    code = "PLM701"
    cure = "look at the message of the process that is named; the exit code is that error's"

    @classmethod
    def of(cls, rank: int, code: int, message: str, hint: str) -> "EndedElsewhere":
        """Return the error that process `rank` has ended with, with its exit code."""
        made = cls(f"process {rank} has ended with exit code {code}{f': {message}' if message else ''}", hint=hint)
        made.exit_code = code  # type: ignore[misc]
        return made


BUG_CODE = "PLM100"
OTHERS = {
    BUG_CODE: (1, "An internal error: a bug of plm-export.", "run again with `-v`, and report what it shows"),
    INTERRUPTED_CODE: (
        INTERRUPTED_EXIT_CODE,
        "The run was interrupted (SIGINT, SIGTERM, SIGHUP); nothing half made is left.",
        "run again; trainings continue from their last checkpoint",
    ),
}
"""Ends of a run that are no error of a class of their own: exit code, cause, cure."""


def error_classes() -> list[type[ExportError]]:
    """Return every class of deliberate errors, by code."""
    found: list[type[ExportError]] = []
    waiting = list(ExportError.__subclasses__())
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return sorted(found, key=lambda cls: cls.code)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint naming the closest of `choices`, or all of them where none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there is none to choose from"
