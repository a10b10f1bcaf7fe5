"""The cache of stages: asked before a stage runs, told afterwards what it made."""

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from converter.artifact import Artifact, TorchModel
from converter.bounds.exhausted import FULL
from converter.cache.folder import FolderStore
from converter.cache.location import cache_root
from converter.cache.remote import RemoteStore
from converter.cache.store import Entry, Store
from converter.errors import ExportError
from converter.jsonfile import json_values
from converter.stage import Context, Outcome, Stage, execute
from converter.stage_cache.artifacts import NotKept, read_artifact, write_artifact
from converter.stage_cache.identity import FIELDS, base_key, field_digest, text_digest

DEFAULT_BYTES = 20_000_000_000


class StageCache:
    """What stages made, in a store. Packages made with it have the same bytes as packages made without it."""

    def __init__(self, store: Store, note: Callable[[str], None] = lambda _text: None) -> None:
        """`note` is told what was taken, and what could not be kept."""
        self.store, self._note = store, note

    def outcome(self, stage: Stage[Any, Any], given: Artifact, ctx: Context) -> tuple[Outcome[Any], bool]:
        """Return what an earlier run of this stage made, or run it and keep that; tells whether it was taken.

        What is returned is verified.
        """
        key, digests = base_key(stage, given), _Digests(ctx)
        for entry in self.store.entries(key):
            found = self._taken(entry, given, ctx, digests)
            if found is not None:
                self._note(f"{_name(stage)}: taken from the cache (made in {entry.facts['seconds']:.0f} s)")
                return found, True
        reads: set[str] = set()
        started = time.perf_counter()
        outcome = execute(stage, given, _observed(ctx, reads))
        outcome.made.verify()
        facts = {
            "stage": _name(stage),
            "seconds": round(time.perf_counter() - started, 3),
            "reads": {name: digests.of(name) for name in sorted(reads)},
            "measured": {k: v for k, v in json_values(ctx.measured).items() if digests.measured.get(k) != v},
            "facts": json_values(outcome.facts),
            "digest": outcome.made.digest,
        }
        self._keep(key, outcome.made, given, facts, ctx.work)
        return outcome, False

    def _taken(self, entry: Entry, given: Artifact, ctx: Context, digests: "_Digests") -> Outcome[Any] | None:
        """Return the outcome that an entry holds; None where it is of another text, or cannot be used."""
        folder, made = ctx.work / f"cached-{uuid.uuid4().hex}", None
        try:
            if any(digests.of(name) != value for name, value in entry.facts["reads"].items()):
                return None
            folder.mkdir()
            if not self.store.fetch(entry, folder):
                return None
            found = read_artifact(entry.facts["artifact"], given, folder)
            found.verify()
            _check_weights(found, entry)
            made = Outcome(found, dict(entry.facts["facts"]))
            ctx.measured.update(entry.facts["measured"])
        except (NotKept, ExportError, KeyError, TypeError, AttributeError) as error:
            self._note(f"an entry of the cache cannot be used and is made again ({error})")
            self.store.drop(entry)
            return None
        finally:
            # The weights of a module stay mapped; those of other models are read from here. Of an entry that cannot be
            # used nothing stays: it is as large as what is made anew.
            if made is None or isinstance(made.made, TorchModel):
                shutil.rmtree(folder, ignore_errors=True)
        return made

    def _keep(self, key: str, made: Artifact, given: Artifact, facts: Mapping[str, Any], work: Path) -> None:
        with TemporaryDirectory(prefix="keep-", dir=work, ignore_cleanup_errors=True) as name:
            try:
                table = {**facts, "artifact": write_artifact(made, given, Path(name))}
                self.store.put(key, text_digest(facts["reads"]), table, Path(name))
            except NotKept as error:
                self._note(f"{facts['stage']}: what it made is not kept in the cache ({error})")
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._note(f"{facts['stage']}: what it made is not kept, the disk is full")


def open_cache(
    place: str | None = None, *, limit: int = DEFAULT_BYTES, note: Callable[[str], None] = lambda _text: None
) -> StageCache:
    """Open the cache at a folder or an fsspec URL; None: `stages` in this tool's cache folder.

    `limit`: bytes of all entries together; those that were used longest ago go first.

    Raises:
        UsageError: it is a file, somebody else's folder, or a URL that nothing opens.

    """
    if place is not None and "://" in place:
        return StageCache(RemoteStore(place, limit, note), note)
    folder = cache_root() / "stages" if place is None else Path(place).expanduser().absolute()
    return StageCache(FolderStore(folder, limit, note), note)


def _name(stage: Stage[Any, Any]) -> str:
    return stage.name or type(stage).__name__


def _check_weights(made: Artifact, entry: Entry) -> None:
    if made.digest != entry.facts["digest"]:
        raise NotKept("it has other weights than were kept")


class _Digests:
    """Digests of a context's fields before a stage runs, each worked out when it is asked for."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._known = ctx, {"measured": field_digest(ctx, "measured")}
        self.measured: dict[str, Any] = dict(json_values(ctx.measured))

    def of(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = field_digest(self._ctx, name)
        return self._known[name]


class _Observed(Context):
    """A context that notes which of its fields are read: an outcome depends on those alone."""

    def __getattribute__(self, name: str) -> Any:
        if name in FIELDS:
            reads = object.__getattribute__(self, "__dict__").get("_reads")
            if reads is not None:
                reads.add(name)
        return object.__getattribute__(self, name)


def _observed(ctx: Context, reads: set[str]) -> Context:
    made = _Observed(**{f.name: getattr(ctx, f.name) for f in fields(Context)})
    made.__dict__["_reads"] = reads
    return made
