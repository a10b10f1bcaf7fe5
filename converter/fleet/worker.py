"""What runs on a worker of a Ray cluster: one job, its files brought there and its packages brought away."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.bounds.scratch import own_prefix, remove_of_dead
from converter.errors import ExportError, RuntimeMissing
from converter.fleet.outcome import Outcome
from converter.fleet.process import Order, failed, run_order
from converter.fleet.share import Share
from converter.fleet.transport import pack, path_digest, unpack, with_paths
from converter.package.output_marker import MARKER
from converter.stage_cache.identity import own_version

PREFIX = "plm-export-job-"
"""Of a job's folder, before the number of the process: what a worker that was killed has left, the next one removes."""


@dataclass(frozen=True)
class Sent:
    """A job as a worker is handed it."""

    order: Order
    digests: Mapping[str, str]
    """Of the files and folders that it reads, by their path on the machine that asks."""
    code: str
    """Digest of the code of the machine that asks: another version makes other packages."""
    share: str | None = None
    """Where packages are left (an fsspec URL); None: they are sent back."""


@dataclass(frozen=True)
class Returned:
    """How a job came out on a worker."""

    outcome: Outcome | None
    """None: it could not begin, files are missing."""
    missing: tuple[str, ...] = ()
    """Paths that the worker does not have, or has otherwise."""
    archive: bytes | None = None
    """The output folder, as a tar archive."""
    log: str = ""


def work(sent: Sent, brought: Mapping[str, bytes], host: str) -> Returned:
    """Run a job; `brought` are archives of files that the worker has lacked before, by path."""
    missing = missing_of(sent.digests, brought)
    if missing:
        return Returned(None, missing)
    model = str(sent.order.recipe.get("model", "sample:default"))
    remove_of_dead(PREFIX)
    try:
        if sent.code != own_version():
            raise RuntimeMissing(f"{host} has another version of plm-export", hint="the same on every node")
        force = "--force" in sent.order.flags
        share = Share(sent.share, sent.order.name) if sent.share else None
        if share is not None:
            share.refuse(force=force)
        with tempfile.TemporaryDirectory(prefix=own_prefix(PREFIX)) as name:
            folder = Path(name)
            order = replace(sent.order, recipe=with_paths(sent.order.recipe, moved_to(folder, brought)))
            out, logs = folder / order.name, folder / "logs"
            outcome = replace(run_order(order, out, logs), where=host, model=model)
            log = (logs / f"{order.name}.log").read_text(encoding="utf-8", errors="replace")
            return _delivered(Returned(outcome, log=log), out, share, force=force)
    except (ExportError, OSError) as error:
        return Returned(replace(failed(sent.order, error), where=host))


def _delivered(made: Returned, out: Path, share: Share | None, *, force: bool) -> Returned:
    """Return what a job made with its output, or leave that at `share`; where it cannot be left, it is returned too."""
    assert made.outcome is not None
    if not out.is_dir():
        return made
    if share is None:
        return replace(made, archive=pack(out, without=frozenset({MARKER})))
    try:
        left = share.leave(out, force=force)
        return replace(made, outcome=replace(made.outcome, where=f"{made.outcome.where}, left at {left}"))
    except ExportError as error:
        code = made.outcome.exit_code or error.exit_code
        told = replace(made.outcome, exit_code=code, error=f"{error}; it was sent back instead", hint=error.hint)
        return Returned(told, archive=pack(out, without=frozenset({MARKER})), log=made.log)


def missing_of(digests: Mapping[str, str], brought: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths that this machine does not have, or has otherwise, and that were not brought."""
    return tuple(p for p, wanted in digests.items() if p not in brought and path_digest(p) != wanted)


def moved_to(folder: Path, brought: Mapping[str, bytes]) -> dict[str, str]:
    """Unpack what was brought; returns the new path of each."""
    return {path: _unpacked(path, archive, folder / f"in-{i}") for i, (path, archive) in enumerate(brought.items())}


def _unpacked(path: str, archive: bytes, folder: Path) -> str:
    """Write a file or folder under its own name: a package says which model it was made of."""
    name = Path(path).name
    unpack(archive, folder / "x" if not name else folder / name)
    inside = folder / name / name
    is_file = inside.is_file() and not any(p.name != name for p in (folder / name).iterdir())
    return str(inside if is_file else folder / name)
