"""Packages, their source and its float32 file timed beside each other: rounds in turn, so a busy machine slows all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import UsageError
from converter.graphs import BATCH, MODEL, SEQUENCE, GraphSpec, Run, run_graphs
from converter.validate.speed import not_worth_it

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converter.target import Runner

WARM_UP_RUNS = 3
LEAST_ROUNDS = 10
SOURCE, FLOAT32 = "source (PyTorch)", "float32 (ONNX)"


@dataclass(frozen=True)
class Entry:
    """One that is timed."""

    name: str
    run: Run
    specs: Mapping[str, GraphSpec]
    size_bytes: int
    lengths: tuple[int, ...] = ()
    max_batch: int | None = None
    positions: int | None = None
    """Tokens that a model which writes text has room for; None: nobody says."""

    def feed(self, batch: int, length: int) -> "dict[str, NDArray[np.int64]]":
        """Return made-up ids: latency of a dense model depends on how many there are, not on which.

        Raises:
            UsageError: the file takes no such batch or length.

        """
        if self.max_batch is not None and batch > self.max_batch:
            raise UsageError(f"{self.name} takes at most {self.max_batch} text(s) at once", where="--batch")
        if self.lengths and length > max(self.lengths):
            raise UsageError(f"{self.name} takes at most {max(self.lengths)} tokens", where="--lengths")
        return self.specs[MODEL].dummy({BATCH: batch, SEQUENCE: length})

    def call(self, feed: "Mapping[str, NDArray[np.int64]]") -> None:
        """Run the graphs once."""
        run_graphs(self.specs, self.run, feed)


def package_entry(folder: Path, threads: int) -> Entry:
    """Open a package.

    Raises:
        PackageDamaged: `folder` is no package.

    """
    from converter.package.manifest import model_bytes, read_manifest
    from converter.package.verify import open_sealed, read_specs

    runner: Runner = open_sealed(folder, threads=threads)
    manifest = read_manifest(folder)
    specs = read_specs(folder, manifest)
    longest = int(manifest["max_length"]) if isinstance(manifest.get("max_length"), int) else None
    return Entry(folder.name, runner.run, specs, model_bytes(manifest), runner.lengths, runner.max_batch, longest)


def source_entries(model: str, work: Path, threads: int) -> list[Entry]:
    """Return the source in PyTorch and as float32 ONNX files, which are written to `work` once.

    Raises:
        SourceError: it cannot be read.

    """
    import torch

    from converter.model_folder.load import load_source
    from converter.model_folder.samples import resolve_model
    from converter.onnx.export import ExportOnnx
    from converter.onnx.external import stored_bytes
    from converter.onnx.runner import OnnxRunner
    from converter.reference import torch_run
    from converter.stage import SILENT, Context, run_stage

    source = load_source(resolve_model(model, SILENT))
    files = {name: work / "onnx" / f"{name}.onnx" for name in source.specs}
    if not all(path.is_file() for path in files.values()):
        run_stage(ExportOnnx(), source, Context(work=work))
    torch.set_num_threads(threads)
    runner = OnnxRunner(files, threads)
    size = sum(map(stored_bytes, files.values()))
    return [
        Entry(SOURCE, torch_run(source), source.specs, source.size_bytes, positions=source.max_length),
        Entry(FLOAT32, runner.run, source.specs, size, positions=source.max_length),
    ]


def time_beside(entries: Sequence[Entry], batch: int, length: int, seconds: float) -> list[dict[str, Any]]:
    """Return, for each, milliseconds at the median, the 10th and the 90th percentile; all take turns.

    Each is called once untimed in its turn: behind another model's call its weights would have to be read first.

    `seconds` is the time spent on each. Where the float32 file or the source is among them, the others are told by
    how much they are faster than it, and one that is neither smaller nor faster is marked.
    """
    feeds = [e.feed(batch, length) for e in entries]
    for entry, feed in zip(entries, feeds, strict=True):
        for _ in range(WARM_UP_RUNS):
            entry.call(feed)
    times: list[list[float]] = [[] for _ in entries]
    end = time.perf_counter() + seconds * len(entries)
    while len(times[0]) < LEAST_ROUNDS or time.perf_counter() < end:
        for taken, entry, feed in zip(times, entries, feeds, strict=True):
            entry.call(feed)
            started = time.perf_counter()
            entry.call(feed)
            taken.append(1000 * (time.perf_counter() - started))
    rows = [{"package": e.name, **_summary(taken)} for e, taken in zip(entries, times, strict=True)]
    for row in rows:
        row["texts_per_second"] = round(1000 * batch / row["milliseconds"], 1)
    compare_times(rows, entries)
    return rows


def _summary(times: list[float]) -> dict[str, Any]:
    import numpy as np

    low, middle, high = (float(x) for x in np.percentile(times, (10, 50, 90)))
    return {"milliseconds": round(middle, 3), "p10": round(low, 3), "p90": round(high, 3), "runs": len(times)}


def compare_times(rows: list[dict[str, Any]], entries: Sequence[Entry], per: str = "text") -> None:
    """Add to rows with `milliseconds` how they compare with the source and its float32 file, if these are there.

    `per`: what one of their times is of, a text or a token.
    """
    known = {e.name: (e.size_bytes, row["milliseconds"]) for e, row in zip(entries, rows, strict=True)}
    rivals = {key: known[name][1] for name, key in ((SOURCE, "source"), (FLOAT32, "float32")) if name in known}
    if not rivals:
        return
    best = min(rivals.values())
    for row in rows:
        size, taken = known[row["package"]]
        row["size_bytes"] = size
        row["faster_than_float32"] = round(best / taken, 2)
        if row["package"] not in (SOURCE, FLOAT32):
            row["not_worth_it"] = not_worth_it(
                size / known[SOURCE][0] if SOURCE in known else size / known[FLOAT32][0],
                {"package": taken, "source": rivals.get("source", best), "float32": rivals.get("float32", best)},
                per,
            )
