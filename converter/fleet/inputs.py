"""What a job was made of: the files that it read. Where they are as they were, it need not run again."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from converter import __version__
from converter.errors import ExportError
from converter.fleet.jobs import Job
from converter.fleet.transport import local_paths, path_digest, path_times
from converter.jsonfile import read_json, write_json
from converter.report.beside import MOST_BYTES

FOLDER = "inputs"
"""Beside the logs, which have the names of jobs with an ending: a job of any name has its own files."""


@dataclass(frozen=True)
class Read:
    """A file or folder as it was when it was read."""

    digest: str | None
    times: tuple[tuple[str, int], ...]
    """When its files were last written: what changed and was changed back is not what a job was made of."""


Known = dict[str, Read | None]
"""By path; None: it cannot be read."""


def inputs_of(job: Job, known: Known) -> dict[str, Read] | None:
    """Return what a job reads; None where it cannot be read, which the job itself tells.

    `known` are files and folders that other jobs read too; what is read here is put there.
    """
    found: dict[str, Read] = {}
    for path in local_paths(job.recipe):
        if path not in known:
            known[path] = _look(path)
        if (one := known[path]) is None:
            return None
        found[path] = one
    return found


def was_made_of(name: str, logs: Path, inputs: dict[str, Read] | None) -> bool:
    """Whether an earlier batch made a job of the same files, by this version."""
    if inputs is None:
        return False
    try:
        return bool(read_json(_file(name, logs), limit=MOST_BYTES) == _table(inputs))
    except ExportError:
        return False


def record(name: str, logs: Path, inputs: dict[str, Read] | None) -> None:
    """Write down what a job was made of when it has ended.

    Nothing is written where a file is not as it was before the job, or where the disk takes no more: such a job runs
    again in the next batch.
    """
    if inputs is None or any(_look(path) != read for path, read in inputs.items()):
        return
    file = _file(name, logs)
    partial = file.with_suffix(".partial")
    with suppress(OSError, ValueError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_json(partial, _table(inputs))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def forget(name: str, logs: Path) -> None:
    """Take away what is written down of a job before it runs: a batch that is killed leaves nothing that is kept."""
    with suppress(NotADirectoryError):
        _file(name, logs).unlink(missing_ok=True)


def _file(name: str, logs: Path) -> Path:
    return logs / FOLDER / f"{name}.json"


def _table(inputs: dict[str, Read]) -> dict[str, object]:
    return {"version": __version__, "read": {path: read.digest for path, read in inputs.items()}}


def _look(path: str) -> Read | None:
    try:
        times = path_times(path)  # first: what is written while it is read is seen at the next look
        return Read(path_digest(path), times)
    except OSError:
        return None
