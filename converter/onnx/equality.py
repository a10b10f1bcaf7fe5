"""A float ONNX file against the PyTorch model it came from: tight equality on real text, alone, in batches, padded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.examples import Encoding, pad_batch
from converter.graphs import BATCH, MODEL, SEQUENCE, GraphSpec, Run
from converter.resources import release_memory
from converter.scoring.relative_error import RANGE_FLOOR, in_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.onnx.model import OnnxModel
    from converter.stage import Context

MAX_ERROR = 1e-4
"""Over the output range: 2e-6 to 2e-5 is what float32 leaves between two orders of summation."""
TEXTS = 6
"""Texts that are tried, from the shortest to the longest at hand."""


class Differences:
    """The largest error of each output in each case; what is not finite, or of another shape, is infinitely far off."""

    def __init__(self) -> None:
        self._errors: dict[tuple[str, int], float] = {}
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}

    def add(self, output: str, case: int, wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> None:
        error = float("inf")
        parts = in_parts(wanted, found)
        if wanted.shape == found.shape and all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in parts):
            error = max(float(np.abs(a - b).max()) for a, b in parts)
            self._low[output] = min(float(wanted.min()), self._low.get(output, np.inf))
            self._high[output] = max(float(wanted.max()), self._high.get(output, -np.inf))
        self._errors[output, case] = max(error, self._errors.get((output, case), 0.0))

    def worst(self) -> tuple[str, int, float]:
        """Return output, case and error, over the range of that output in all cases."""
        ranges = {name: max(high - self._low[name], RANGE_FLOOR) for name, high in self._high.items()}
        relative = {key: error / ranges.get(key[0], 1.0) for key, error in self._errors.items()}
        (output, case), error = max(relative.items(), key=lambda item: item[1])
        return output, case, error


@dataclass(frozen=True)
class _Case:
    title: str
    feed: "dict[str, NDArray[np.int64]]"

    @property
    def shape(self) -> str:
        return "x".join(map(str, self.feed["input_ids"].shape))


def check_exported(exported: "OnnxModel", ctx: "Context") -> dict[str, Any]:
    """Compare the file with its source model; returns the facts.

    Raises:
        StageFailed: some output is further off than `MAX_ERROR` of its range, or not finite; names the worst case.

    """
    from converter.reference import torch_run

    source, path = exported.source, exported.files[MODEL]
    spec = source.specs[MODEL]
    cases = list(_cases(source, _encodings(source, ctx)))
    wanted_run, run = torch_run(source), _run_of(source, path)
    differences = Differences()
    with ctx.progress.task("Comparing with PyTorch", total=len(cases)) as ticker:
        for i, case in enumerate(cases):
            wanted, found = wanted_run(MODEL, case.feed), run(MODEL, case.feed)
            for name in spec.output_names:
                differences.add(name, i, *(_real(spec, name, made[name], case.feed) for made in (wanted, found)))
            ticker.advance()
    del run
    release_memory()
    output, place, worst = differences.worst()
    if worst > MAX_ERROR:
        case = cases[place]
        raise StageFailed(
            f"the ONNX file differs from PyTorch by {worst:.1e} of the range of {output} "
            f"(at most {MAX_ERROR:.0e}) for {case.title}, shape {case.shape}",
            where=source.provenance.id,
        )
    return {"max_relative_error": worst, "shapes": [c.shape for c in cases]}


def _run_of(source: "TorchModel", path: Path) -> Run:
    from converter.onnx.pieces import Pieces
    from converter.onnx.runner import OnnxRunner, open_lean_session

    if source.offloaded:
        return Pieces(path).run
    return OnnxRunner({MODEL: path}, sessions={MODEL: open_lean_session(path)}).run


def _real(
    spec: GraphSpec, name: str, output: "NDArray[np.float32]", feed: "Mapping[str, NDArray[np.int64]]"
) -> "NDArray[np.float32]":
    """Return what belongs to real tokens; outputs without a length axis as they are."""
    mask = feed["attention_mask"].astype(bool)
    # One of another shape is infinitely far off, and not cut.
    return output[mask] if name in spec.outputs_along(SEQUENCE) and output.shape[:2] == mask.shape else output


def _encodings(source: "TorchModel", ctx: "Context") -> list[Encoding]:
    """Return texts from short to long: the calibration text, else the held-out text, else token ids drawn at random."""
    pool = (ctx.calibration or ctx.held_out)[:64]
    found = [source.task.encode(source.tokenizer, e, source.max_length) for e in pool]
    found = found or [_random(source, n, ctx.seed) for n in (3, 5, 8, 13, 21)]
    found = sorted((e for e in found if e.length <= source.max_length), key=lambda e: e.length)
    picked = np.unique(np.linspace(0, len(found) - 1, TEXTS).round().astype(int))
    return [found[i] for i in picked]


def _random(source: "TorchModel", length: int, seed: int) -> Encoding:
    rows = source.specs[MODEL].dummy({BATCH: 1, SEQUENCE: min(length, source.max_length)}, seed=seed)
    return Encoding({name: row[0] for name, row in rows.items()})


def _cases(source: "TorchModel", texts: list[Encoding]) -> Iterator[_Case]:
    spec, longest = source.specs[MODEL], texts[-1].length
    for text in texts:
        yield _Case("one text", pad_batch([text], spec))
        yield _Case("one padded text", pad_batch([text], spec, {SEQUENCE: min(text.length + 7, source.max_length)}))
    yield _Case("a padded batch", pad_batch(texts, spec, {SEQUENCE: min(longest + 3, source.max_length)}))
    yield _Case("single tokens", pad_batch([t.resized(1) for t in texts[:3]], spec))
    yield _Case("the longest input", pad_batch([texts[-1].resized(source.max_length)], spec))
