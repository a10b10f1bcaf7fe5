"""The same text must get the same answer, whatever is padded around it and whoever shares its batch.

ONNX Runtime's dynamic int8 scales activations over the whole batch, padding included, so it cannot promise that; a
mask that leaks cannot either. Both are measured here, on the shipped file.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import Encoding
from converter.graphs import SEQUENCE, Run
from converter.reference import feed_of, own_outputs, torch_run
from converter.resources import made_in_threads
from converter.scoring.relative_error import relative_error
from converter.task import Judged
from converter.validate.answers import RunFailed, run_safely
from converter.validate.checks import Check, Status, within
from converter.validate.ties import ties_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.precision import Limits
    from converter.stage import Progress
    from converter.target import Runner

SAMPLE = 200
"""Texts that are run again."""
FIRST = 16
"""Texts after which it is enough where nothing moves."""
STILL = 1e-3
"""Change of outputs, over their range, that counts as no move: rounding in float16 makes half of it."""
BATCH = 8
MOST_LOGITS = 1 << 25
"""Of one batch, 128 MB: of a large vocabulary fewer texts share one."""


@dataclass(frozen=True)
class Variation:
    """One other way to feed the same texts."""

    name: str
    n_texts: int
    n_other: int
    """Texts that got a different answer than alone."""
    agreement: float
    moved: float
    """Largest change of an output, over the output range."""

    @property
    def still(self) -> bool:
        return not self.n_other and self.moved <= STILL

    def sentence(self) -> str:
        return f"{self.n_other} of {self.n_texts} texts get a different answer {self.name}"


def check_stability(
    source: "TorchModel",
    alone: Sequence[Judged],
    runner: "Runner",
    output_range: "dict[str, float]",
    limits: "Limits",
    progress: "Progress",
    packed: "TorchModel | None" = None,
) -> tuple[Check, list[Variation]]:
    """Feed a sample of texts again, padded and in batches, and compare with what each got alone.

    What no padding and no neighbour moves at all in a few texts of all lengths is not asked of the others. `packed` is
    the model that the package was made of, if another one than `source`: its ids are those of the texts.
    """
    sample = spread(alone, SAMPLE)
    longest = min(source.max_length, runner.max_length or source.max_length)
    together = min(BATCH, runner.max_batch or BATCH, _most_rows(source, sample))
    variations = []
    with progress.task("Running the texts with other padding and in batches", total=2 * len(sample)) as ticker:
        for name, batches in (
            ("when padded to a longer length", list(_padded(sample, runner.lengths, longest))),
            (f"in a batch of {together}", list(_batched(sample, together))),
        ):
            pairs: list[tuple[Judged, Judged]] = []
            changes: list[tuple[float, float]] = []
            for rows, found in _answered(source, _in_strides(batches), runner):
                n_before = len(changes) + len(pairs)
                pairs += zip(rows, found, strict=True)
                ticker.advance(len(rows))
                if source.cache is not None:
                    # Each text decides for itself, and the logits of all of them would take a model's memory.
                    changes += _changes(source, pairs, output_range)
                    pairs.clear()
                if n_before < FIRST <= len(changes) + len(pairs):
                    so_far = changes + _changes(source, pairs, output_range)
                    if _variation(name, so_far, limits).still:
                        break
            changes += _changes(source, pairs, output_range)
            if changes:
                variations.append(_variation(name, changes, limits))
    check = _judge(variations, limits)
    if check.status is Status.FAIL and source.cache is None:
        check = replace(check, detail=check.detail + _of_the_model(packed or source, sample, longest, output_range))
    return check, variations


def _of_the_model(model: "TorchModel", sample: Sequence[Judged], longest: int, scales: dict[str, float]) -> str:
    """Say whether padding gives some texts another answer from the model itself: no precision will help then."""
    run = torch_run(model)
    try:
        pairs = [
            (_run(model, rows, rows[0].encoding.length, run)[0], _run(model, rows, length, run)[0])
            for rows, length in list(_padded(sample, (), longest))[:FIRST]
        ]
    except RunFailed:  # that the package runs, and what it answers, is not the less true
        return ""
    other = sum(same < 1 for same, _ in _changes(model, pairs, scales))
    if not other:
        return ""
    return (
        f"; the model in PyTorch gives {other} of {len(pairs)} texts another answer when padded, so no precision will "
        "help: where texts are asked about one at a time, --limit stability=0 accepts it"
    )


def _answered(
    source: "TorchModel", batches: Sequence[tuple[list[Judged], int]], runner: "Runner"
) -> Iterator[tuple[list[Judged], list[Judged]]]:
    """Yield what was asked and what came out, batch by batch."""
    # The logits of two batches at once, over a large vocabulary, would take twice the memory.
    wide = source.cache is not None and any(len(rows) > 1 for rows, _ in batches)
    made = made_in_threads(lambda b: _run(source, *b, runner.run), batches, alone=wide or not runner.side_by_side)
    yield from zip((rows for rows, _ in batches), made, strict=True)


def _in_strides(batches: Sequence[Any]) -> list[Any]:
    """Order batches so that those of the first `FIRST` texts are spread evenly over all."""
    size = len(batches[0][0]) if batches else 1
    step = max(1, len(batches) * size // FIRST)
    return [one for k in range(step) for one in batches[k::step]]


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """Return at most `limit` items, evenly over the whole."""
    return [items[i * len(items) // limit] for i in range(limit)] if len(items) > limit else list(items)


def _padded(sample: Sequence[Judged], lengths: Sequence[int], longest: int) -> Iterator[tuple[list[Judged], int]]:
    for one in sample:
        n = one.encoding.length
        if lengths:
            # The file pads to its own lengths anyway: the next one up is other padding.
            length = next((x for x in sorted(lengths) if x > min((y for y in lengths if y >= n), default=n)), n)
        else:
            length = min(longest, 2 * n + 8)
        if n < length <= longest:
            yield [one], length


def _most_rows(source: "TorchModel", sample: Sequence[Judged]) -> int:
    """Return how many texts may be run together, two at least: models that write text give logits for every token."""
    if source.cache is None:
        return BATCH
    longest = max((j.encoding.lengths[SEQUENCE] for j in sample), default=1)
    width = max((v.shape[-1] for j in sample[:1] for v in j.outputs.values()), default=1)
    return max(2, MOST_LOGITS // (longest * width))


def _batched(sample: Sequence[Judged], size: int) -> Iterator[tuple[list[Judged], int]]:
    if size < 2 or len(sample) < 2:
        return
    by_length = sorted(sample, key=lambda j: j.encoding.length)
    n_batches = -(-len(by_length) // size)
    for k in range(n_batches):
        rows = by_length[k::n_batches]  # strides over the lengths: every batch has short and long neighbours
        yield rows, max(r.encoding.length for r in rows)


def _run(source: "TorchModel", rows: Sequence[Judged], length: int, run: Run) -> list[Judged]:
    specs = source.specs
    feed = feed_of(source, [r.encoding for r in rows], _padded_to([r.encoding for r in rows], length))
    outputs = run_safely(source.task, specs, run, feed, rows[0].example, length)
    return [
        Judged(r.example, r.encoding, own_outputs(outputs, i, r.encoding, source.task, specs))
        for i, r in enumerate(rows)
    ]


def _padded_to(encodings: Sequence[Encoding], length: int) -> dict[str, int]:
    """Return the length of each axis where the longest is `length`: all have as much padding."""
    longest = {axis: max(e.lengths[axis] for e in encodings) for axis in encodings[0].lengths}
    return {axis: n + length - max(longest.values()) for axis, n in longest.items()}


def _changes(
    source: "TorchModel", pairs: "list[tuple[Judged, Judged]]", output_range: "dict[str, float]"
) -> list[tuple[float, float]]:
    """Return how far each text's answer is the same, and its largest change over the range: infinite if unsound."""
    if not pairs:
        return []
    alone = [a for a, _ in pairs]
    # An answer that is not a number is another answer, whatever it would decide.
    sound = [all(np.isfinite(b.outputs[n]).all() for n in a.outputs) for a, b in pairs]
    again = [b if ok else a for (a, b), ok in zip(pairs, sound, strict=True)]
    decisions = zip(source.task.decisions(alone), source.task.decisions(again), sound, strict=True)
    same = [source.task.same(a, b) if ok else 0.0 for a, b, ok in decisions]
    moved = [
        max(relative_error(b.outputs[n], value, output_range[n]) for n, value in a.outputs.items()) if ok else math.inf
        for a, b, ok in zip(alone, again, sound, strict=True)
    ]
    return list(zip(same, moved, strict=True))


def _variation(name: str, changes: Sequence[tuple[float, float]], limits: "Limits") -> Variation:
    same, moved = [s for s, _ in changes], [m for _, m in changes]
    ties = ties_of(same, moved, limits)
    same = [1.0 if i in ties else s for i, s in enumerate(same)]
    # What is unsound has no size.
    most = max((m for m in moved if not math.isinf(m)), default=0.0)
    return Variation(name, len(changes), sum(s < 1 for s in same), float(np.mean(same)), most)


def _judge(variations: Sequence[Variation], limits: "Limits") -> Check:
    if not variations:
        return Check(
            "stability",
            Status.NOT_RUN,
            None,
            limits.stability,
            "not applicable: the file has one sequence length and takes one text per call",
        )
    value = min(v.agreement for v in variations)
    moved = max(v.moved for v in variations)
    detail = f"{', '.join(v.sentence() for v in variations)}; outputs change by at most {moved:.3g} of their range"
    if limits.stability is None:
        return Check("stability", Status.NOT_RUN, value, None, f"{detail}; no limit is set")
    detail += f"; at least {limits.stability:g} must stay the same"
    return Check("stability", within(value, limits.stability, at_least=True), value, limits.stability, detail)
