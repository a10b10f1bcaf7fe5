"""Texts that fill every length of a file, to the last position: what shorter texts never reach."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.examples import Encoding, Example
from converter.reference import Probe, Reference, run_probe, torch_run
from converter.scoring.relative_error import RANGE_FLOOR
from converter.task import Judged
from converter.validate.answers import RunFailed, run_safely, shorten
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.target import Runner

NAME = "full lengths"
TEXTS = 3
"""Texts of each length."""
LONGEST = 1024
"""Lengths beyond it are tried with this many tokens: what a longer one costs grows with its square."""
TIMES = 9.0
"""What a length may be off, over what all texts are off on average; a file is made once for all of its lengths."""
ROOM = 0.03
"""The same over the output range, where all texts are hardly off at all."""


def check_full_lengths(
    model: "TorchModel", reference: Reference, runner: "Runner", mean_error: float, progress: "Progress"
) -> Check | None:
    """Run texts that fill each length and compare with `model`, which the package was made of; None for writers.

    Not with the source: texts put together are unlike those that a compressed model learned from, and what compression
    costs is judged on real text. `mean_error` is that of all texts, over the output range: the noise of the file.
    """
    if model.cache is not None:
        return None
    longest = min(model.max_length, runner.max_length or model.max_length, LONGEST)
    lengths = [n for n in runner.lengths if n <= longest] or [longest]
    run, worst, at = torch_run(model), 0.0, lengths[-1]
    n = 0
    with progress.task("Filling every length", total=len(lengths)) as ticker:
        for length in lengths:
            errors = []
            for probe in _filling(model, reference, length):
                try:
                    wanted = run_probe(model, probe, run)
                    errors.append(_error(model, probe, runner, wanted, reference.output_range))
                except RunFailed as error:
                    return Check(NAME, Status.FAIL, detail=f"{length} tokens: {error}")
            n += len(errors)
            mean = float(np.mean(errors)) if errors else 0.0
            if not mean <= worst:
                worst, at = mean, length
            ticker.advance()
    limit = max(TIMES * mean_error, ROOM)
    detail = (
        f"{n} texts that fill {'each of the lengths' if len(lengths) > 1 else 'the length'} of "
        f"{shorten(', '.join(map(str, lengths)), 60)} tokens are off by {worst:.2g} of the output range at most, at "
        f"{at} tokens; at most {limit:.2g} wanted"
    )
    return Check(NAME, Status.PASS if worst <= limit else Status.FAIL, worst, limit, detail)


def _filling(model: "TorchModel", reference: Reference, length: int) -> list[Probe]:
    """Return texts of exactly `length` tokens: the longest ones cut, or the tokens of several one after the other."""
    by_length = sorted(reference.judged, key=lambda j: -j.encoding.length)
    made = []
    for i in range(min(TEXTS, len(by_length))):
        example = by_length[i].example
        encoding = model.task.encode(model.tokenizer, example, length)
        if encoding.length < length:
            example, encoding = _joined(model, by_length, i, length)
        made.append(Probe(example, encoding))
    return made


def _joined(model: "TorchModel", by_length: Sequence[Judged], first: int, length: int) -> tuple[Example, Encoding]:
    """Return a text of other texts, long enough to be cut at `length`, and its tokens (repeated, should it not be)."""
    base, words = by_length[first].example, []
    for one in (by_length[(first + k) % len(by_length)].example for k in range(len(by_length))):
        words.append(one.pair or one.text if one.words is None else " ".join(one.words))
        if sum(map(len, words)) > 8 * length:
            break
    text = " ".join(words)
    pair = (base.text, text) if base.pair is not None else (text, None)
    example = Example(pair[0], pair[1], tuple(text.split()) if base.words is not None else None)
    encoding = model.task.encode(model.tokenizer, example, length)
    return (example, encoding) if encoding.length == length else (base, by_length[first].encoding.resized(length))


def _error(
    model: "TorchModel", probe: Probe, runner: "Runner", wanted: Judged, output_range: dict[str, float]
) -> float:
    """Return the mean error over the output range, of the worst output; infinite where it is not finite."""
    from converter.reference import feed_of, own_outputs

    feed = feed_of(model, [probe.encoding])
    made = run_safely(model.task, model.specs, runner.run, feed, probe.example, probe.encoding.length)
    found = own_outputs(made, 0, probe.encoding, model.task, model.specs)
    errors = [
        float(np.abs(found[name] - value).mean()) / max(output_range.get(name, 0.0), RANGE_FLOOR)
        for name, value in wanted.outputs.items()
        if name in found
    ]
    worst = max(errors, default=float("inf"))
    return worst if np.isfinite(worst) else float("inf")
