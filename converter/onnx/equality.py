"""A float ONNX file against the PyTorch model it came from: tight equality on real text, alone, in batches, padded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.examples import Encoding, pad_batch
from converter.memory import release_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import OnnxModel, TorchModel
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
        if wanted.shape == found.shape and np.isfinite(wanted).all() and np.isfinite(found).all():
            error = float(np.abs(wanted - found).max())
            self._low[output] = min(float(wanted.min()), self._low.get(output, np.inf))
            self._high[output] = max(float(wanted.max()), self._high.get(output, -np.inf))
        self._errors[output, case] = max(error, self._errors.get((output, case), 0.0))

    def worst(self) -> tuple[str, int, float]:
        """Return output, case and error, over the range of that output in all cases."""
        ranges = {name: max(high - self._low[name], 1e-12) for name, high in self._high.items()}
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


def check_equal(made: "OnnxModel", ctx: "Context") -> dict[str, Any]:
    """Compare the file with its source model; returns the facts.

    Raises:
        StageFailed: some output is further off than `MAX_ERROR` of its range, or not finite; names the worst case.

    """
    from converter.onnx.runner import OnnxRunner, open_lean_session
    from converter.reference import torch_run

    source = made.source
    cases = list(_cases(source, _encodings(source, ctx)))
    wanted_run, runner = torch_run(source), OnnxRunner(made.path, session=open_lean_session(made.path))
    differences = Differences()
    with ctx.progress.task("Comparing with PyTorch", total=len(cases)) as ticker:
        for i, case in enumerate(cases):
            wanted, found = wanted_run(case.feed), runner.run(case.feed)
            for name in made.output_names:
                differences.add(name, i, _real(wanted[name], case.feed), _real(found[name], case.feed))
            ticker.advance()
    del runner
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


def _real(output: "NDArray[np.float32]", feed: "Mapping[str, NDArray[np.int64]]") -> "NDArray[np.float32]":
    """Return what belongs to real tokens; outputs without a length axis as they are."""
    mask = feed["attention_mask"].astype(bool)
    return output[mask] if output.shape[:2] == mask.shape else output


def _encodings(source: "TorchModel", ctx: "Context") -> list[Encoding]:
    """Return texts from short to long: the user's, else the probes, else token ids drawn at random."""
    if ctx.calibration:
        pool = ctx.calibration[:64]
        found = [source.task.encode(source.tokenizer, e, source.max_length) for e in pool]
    elif ctx.reference is not None:
        found = [p.encoding for p in ctx.reference.probes[:64]]
    else:
        found = [_random(source, n, ctx.seed) for n in (3, 5, 8, 13, 21)]
    found = sorted((e for e in found if e.length <= source.max_length), key=lambda e: e.length)
    picked = np.unique(np.linspace(0, len(found) - 1, TEXTS).round().astype(int))
    return [found[i] for i in picked]


def _random(source: "TorchModel", length: int, seed: int) -> Encoding:
    rng = np.random.default_rng((seed, length))
    rows = {name: np.zeros(min(length, source.max_length), dtype=np.int64) for name in source.input_names}
    rows["attention_mask"] += 1
    rows["input_ids"] += rng.integers(0, len(source.tokenizer), rows["input_ids"].shape)
    return Encoding(rows)


def _cases(source: "TorchModel", texts: list[Encoding]) -> Iterator[_Case]:
    longest = texts[-1].length
    for text in texts:
        yield _Case("one text", pad_batch([text], source.pad))
        yield _Case("one padded text", pad_batch([text], source.pad, min(text.length + 7, source.max_length)))
    yield _Case("a padded batch", pad_batch(texts, source.pad, min(longest + 3, source.max_length)))
    yield _Case("single tokens", pad_batch([_cut(t, 1) for t in texts[:3]], source.pad))
    yield _Case("the longest input", pad_batch([_tiled(texts[-1], source.max_length)], source.pad))


def _cut(text: Encoding, length: int) -> Encoding:
    return Encoding({name: ids[:length] for name, ids in text.inputs.items()})


def _tiled(text: Encoding, length: int) -> Encoding:
    return Encoding({name: np.resize(ids, length) for name, ids in text.inputs.items()})
