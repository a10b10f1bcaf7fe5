"""Texts that fill every length of a file, to the last position: what shorter texts never reach."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from converter.examples import Encoding, Example
from converter.graphs import runs_side_by_side
from converter.reference import Probe, Reference, feed_of, judge, own_outputs, torch_run
from converter.resources import ANSWERS_AHEAD, made_in_threads
from converter.scoring.relative_error import RANGE_FLOOR
from converter.stage import SILENT
from converter.task import Judged
from converter.validate.answers import RunFailed, run_safely, shorten
from converter.validate.asked import Asked, Ids, ids_of
from converter.validate.checks import Check, Status
from converter.validate.noise import FLOAT, Noise, rounded, share_of_variance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.target import Runner

NAME = "full lengths"
TEXTS, MORE = 2, 8
"""Texts of each length, and those of a length that is off by more than the limit, before that is called a fault."""
MOST_COST = 0.6
"""Of the variance of the model's answers, what is never rounding: the same answer to all texts costs 1, and answers of
other texts 2. In few bits, or where half precision overflows, rounding alone would allow anything."""
LONGEST = 1024
"""Lengths beyond it are tried with this many tokens: what a longer one costs grows with its square."""
TIMES = 9.0
"""What a length may be off, over what all texts are off on average; a file is made once for all of its lengths."""
ROOM = 0.03
"""The same over the output range, where all texts are hardly off at all."""


@dataclass(frozen=True)
class Answered:
    """What is known before any text is put together."""

    mine: Sequence[Judged] = ()
    """Answers of the package to the judged texts."""
    theirs: Sequence[Judged] = ()
    """Answers of the model that it was made of to the same texts, where they are known."""
    asked: Asked = field(default_factory=Asked)
    """What that model was asked for the packages before."""


def check_full_lengths(
    model: "TorchModel",
    reference: Reference,
    runner: "Runner",
    mean_error: float,
    progress: "Progress",
    answered: Answered | None = None,
    bits: Callable[[], int] = lambda: FLOAT,
) -> Check | None:
    """Run texts that fill each length and compare with `model`, which the package was made of; None for writers.

    Not with the source: texts put together are unlike those that a compressed model learned from, and what compression
    costs is judged on real text. `mean_error` is that of all texts, over the output range: the noise of the file.

    A model is often undecided about texts put together, and rounding moves it further than on real ones. A length that
    is off by more than all texts is therefore asked about more texts, beside the model rounded to the file's `bits`,
    which are asked for only then: nothing else may use the model meanwhile.
    """
    if model.cache is not None:
        return None
    longest = min(model.max_length, runner.max_length or model.max_length, LONGEST)
    lengths = [n for n in runner.lengths if n <= longest] or [longest]
    texts = _Texts(model, runner, answered or Answered())
    worst, at, n = 0.0, lengths[-1], 0
    limit = max(TIMES * mean_error, ROOM)
    beyond: list[int] = []
    with progress.task("Filling every length", total=len(lengths)) as ticker:
        filling = [_filling(model, reference, length) for length in lengths]
        for length, wanted in zip(lengths, texts.wanted(filling), strict=True):
            try:
                pairs = texts.found(wanted)
            except RunFailed as error:
                return Check(NAME, Status.FAIL, detail=f"{length} tokens: {error}")
            errors = [_error(one, found, reference.output_range) for one, found in pairs]
            n += len(errors)
            mean = float(np.mean(errors)) if errors else 0.0
            if not mean <= worst:
                worst, at = mean, length
            if not mean <= limit:
                beyond.append(length)
            ticker.advance()
    detail = (
        f"{n} texts that fill {'each of the lengths' if len(lengths) > 1 else 'the length'} of "
        f"{shorten(', '.join(map(str, lengths)), 60)} tokens are off by {worst:.2g} of the output range at most, at "
        f"{at} tokens; at most {limit:.2g} wanted"
    )
    if beyond and np.isfinite(worst) and bits() < FLOAT:
        return _beside_rounding(texts, reference, beyond, bits(), detail)
    return Check(NAME, Status.FAIL if beyond else Status.PASS, worst, limit, detail)


def _beside_rounding(texts: "_Texts", reference: Reference, lengths: Sequence[int], bits: int, detail: str) -> Check:
    """Judge lengths that are off by more than all texts: by more texts, and by what rounding costs on them."""
    try:
        costs = [texts.costs(reference, length, bits) for length in lengths]
    except RunFailed as error:
        return Check(NAME, Status.FAIL, detail=f"{detail}; {error}")
    most = max(costs, key=lambda cost: cost.package / min(cost.limit(bits), MOST_COST))
    limit = min(most.limit(bits), MOST_COST)
    detail += (
        f". Of {MORE} such texts the errors are {most.package:.2g} of the variance of the model's answers; rounding it "
        f"to {bits} bits costs {most.rounding:.2g}, and at most {limit:.2g} is allowed"
    )
    return Check(NAME, Status.PASS if most.package <= limit else Status.FAIL, most.package, limit, detail)


def _filling(model: "TorchModel", reference: Reference, length: int, count: int = TEXTS) -> list[Probe]:
    """Return texts of exactly `length` tokens: such as they are, else the longest ones cut, or several joined."""
    made = [Probe(j.example, j.encoding) for j in reference.judged if j.encoding.length == length][:count]
    others = (j for j in reference.judged if j.encoding.length != length)
    by_length = sorted(others, key=lambda j: -j.encoding.length)
    for i in range(min(count - len(made), len(by_length))):
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


@dataclass(frozen=True)
class _Texts:
    """Both answers to a text: nothing is run where one of the judged texts has these very tokens."""

    model: "TorchModel"
    runner: "Runner"
    answered: Answered

    def wanted(self, each: Sequence[Sequence[Probe]]) -> Iterator[list[Judged]]:
        """Yield what the model answers to some texts after the others, further ones beside whoever takes the first."""
        alone = not runs_side_by_side(torch_run(self.model))
        return made_in_threads(self._wanted, each, alone=alone, ahead=len(each))

    def _wanted(self, probes: Sequence[Probe]) -> list[Judged]:
        known = {ids_of(j.encoding): j for j in self.answered.theirs}
        rest = [p for p in probes if ids_of(p.encoding) not in known]
        known |= {ids_of(j.encoding): j for j in self.answered.asked.again(self.model, "float", rest, self._judge)}
        return [replace(known[ids_of(p.encoding)], example=p.example) for p in probes]

    def found(self, wanted: Sequence[Judged]) -> "list[tuple[Judged, Mapping[str, NDArray[np.float32]]]]":
        """Return each with the outputs of the package for its text; `RunFailed` where that refuses one."""
        mine = {ids_of(j.encoding): j.outputs for j in self.answered.mine}
        found = made_in_threads(
            lambda one: self._mine(one, mine), wanted, alone=not self.runner.side_by_side, ahead=ANSWERS_AHEAD
        )
        return list(zip(wanted, found, strict=True))

    def costs(self, reference: Reference, length: int, bits: int) -> Noise:
        """Return what the package costs at a length, and what rounding the model does."""
        probes = _filling(self.model, reference, length, MORE)
        pairs = self.found(self._wanted(probes))
        with rounded(self.model, bits):
            least = self._judge(probes)
        wanted, found = [w for w, _ in pairs], [replace(w, outputs=mine) for w, mine in pairs]
        return Noise(share_of_variance(wanted, found), share_of_variance(wanted, least))

    def _judge(self, probes: Sequence[Probe]) -> Sequence[Judged]:
        return judge(self.model, probes, torch_run(self.model), SILENT, "")

    def _mine(
        self, wanted: Judged, known: "Mapping[Ids, Mapping[str, NDArray[np.float32]]]"
    ) -> "Mapping[str, NDArray[np.float32]]":
        encoding, task, specs = wanted.encoding, self.model.task, self.model.specs
        if ids_of(encoding) in known:
            return known[ids_of(encoding)]
        feed = feed_of(self.model, [encoding])
        made = run_safely(task, specs, self.runner.run, feed, wanted.example, encoding.length)
        return own_outputs(made, 0, encoding, task, specs)


def _error(wanted: Judged, found: "Mapping[str, NDArray[np.float32]]", output_range: dict[str, float]) -> float:
    """Return the mean error over the output range, of the worst output; infinite where it is not finite."""
    errors = [
        float(np.abs(found[name] - value).mean()) / max(output_range.get(name, 0.0), RANGE_FLOOR)
        for name, value in wanted.outputs.items()
        if name in found
    ]
    worst = max(errors, default=float("inf"))
    return worst if np.isfinite(worst) else float("inf")
