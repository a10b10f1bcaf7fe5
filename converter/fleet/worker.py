"""What runs on a worker of a Ray cluster: one job, its files brought there and its packages brought away."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.fleet.outcome import Outcome
from converter.fleet.process import Order, run_order
from converter.fleet.transport import pack, path_digest, unpack, with_paths
from converter.package.output_marker import MARKER


@dataclass(frozen=True)
class Sent:
    """A job as a worker is handed it."""

    order: Order
    digests: Mapping[str, str]
    """Of the files and folders that it reads, by their path on the machine that asks."""
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
    with tempfile.TemporaryDirectory(prefix="plm-export-job-") as name:
        folder = Path(name)
        order = replace(sent.order, recipe=with_paths(sent.order.recipe, moved_to(folder, brought)))
        out, logs = folder / order.name, folder / "logs"
        outcome = replace(run_order(order, out, logs), where=host)
        outcome = replace(outcome, model=str(sent.order.recipe.get("model", "sample:default")))
        log = (logs / f"{order.name}.log").read_text(encoding="utf-8", errors="replace")
        archive = None
        if out.is_dir():
            if sent.share:
                outcome = replace(outcome, where=f"{host}, left at {_leave(out, sent.share)}")
            else:
                archive = pack(out, without=frozenset({MARKER}))
        return Returned(outcome, archive=archive, log=log)


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


def _leave(out: Path, share: str) -> str:
    """Copy an output folder to `share`/NAME; returns where it is."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(share)
    target = f"{root.rstrip('/')}/{out.name}"
    for one in sorted(p for p in out.rglob("*") if p.is_file()):
        place = f"{target}/{one.relative_to(out).as_posix()}"
        files.makedirs(place.rpartition("/")[0], exist_ok=True)
        files.put_file(str(one), place)
    return f"{share.rstrip('/')}/{out.name}"
