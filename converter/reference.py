"""The source's own answers, taken before anything is changed."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import SourceError
from converter.examples import Encoding, Example, JudgedText
from converter.graphs import GraphSpec, Run, runs_side_by_side
from converter.resources import ANSWERS_AHEAD, made_in_threads
from converter.score import Score, score_parts
from converter.task import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress
    from converter.task import Task

BATCH_TOKENS = 4096
"""Padded tokens in one batch of the source: bounds memory whatever the lengths are."""
SAME_TOKENS = 256
"""Tokens in one batch of texts of equal lengths: more make none cheaper, and outputs may be as wide as a vocabulary."""


@dataclass(frozen=True)
class Probe:
    """An example and its token ids."""

    example: Example
    encoding: Encoding


@dataclass(frozen=True)
class Reference:
    """What the source answers to each probe, at its natural length and without padding."""

    judged: tuple[Judged, ...]
    decisions: tuple[Any, ...]
    output_range: dict[str, float]
    """Largest minus smallest value of each output over all probes: errors are told relative to it."""
    metric: dict[str, float]
    """The source's own score on `scored`."""
    chance: float | None
    """What a model that ignores its input would score; None where nothing is labelled."""
    scored: tuple[Probe, ...] = ()
    """Every labelled text of the evaluation file (of the probes, where there is none); all windows of it."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know: how the data was read, and why the metric may mislead."""
    score: Score = field(default_factory=Score)
    text: JudgedText = field(default_factory=JudgedText)

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(Probe(j.example, j.encoding) for j in self.judged)

    @property
    def n_scored(self) -> int:
        """How many texts `metric` is of."""
        return sum(not p.example.window for p in self.scored)


def torch_run(model: "TorchModel") -> Run:
    """Return a function that runs a graph of `model` on int64 batches `[batch, length]` (and a cache, in float32)."""
    if model.cache is not None:
        from converter.generate.modules import torch_graphs_run

        return torch_graphs_run(model.module)
    from converter.forward import Graphs

    return Graphs(model).run


def encode_probes(model: "TorchModel", examples: Sequence[Example]) -> tuple[Probe, ...]:
    return tuple(Probe(e, model.task.encode(model.tokenizer, e, model.max_length)) for e in examples)


def windows_of(model: "TorchModel", examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return everything that is read of some texts, window by window.

    Windows of a text that is there from its beginning are found anew; others are kept.
    """
    whole = {e for e in examples if not e.window}
    made: list[Example] = []
    for example in examples:
        if not example.window:
            made += model.task.windows(model.tokenizer, example, model.max_length)
        elif replace(example, window=0) not in whole:
            made.append(example)
    return tuple(made)


def feed_of(
    model: "TorchModel", encodings: Sequence[Encoding], lengths: Mapping[str, int] | None = None
) -> dict[str, "NDArray[np.int64]"]:
    """Stack encodings into what the graphs take: another tokenizer (a shipped one) may give more than that."""
    return model.task.feed(model.specs, encodings, lengths)


def run_probe(model: "TorchModel", probe: Probe, run: Run) -> Judged:
    """Run one text alone at its natural length."""
    specs = model.specs
    outputs = model.task.answer(specs, run, feed_of(model, [probe.encoding]))
    return Judged(probe.example, probe.encoding, own_outputs(outputs, 0, probe.encoding, model.task, specs))


def judge(
    model: "TorchModel", probes: Sequence[Probe], run: Run, progress: "Progress", title: str
) -> tuple[Judged, ...]:
    """Run every probe at its natural length, beside others of the very same lengths: nothing is padded.

    What a model answers to a text does not depend on the others then, but for the order in which floats are summed.
    Models that write text answer one at a time.
    """
    made: dict[int, Judged] = {}
    with progress.task(title, total=len(probes)) as ticker:
        groups = _of_equal_lengths(probes, most=1 if model.cache is not None else SAME_TOKENS)
        alone = not runs_side_by_side(run)
        together = partial(_together, model, probes, run=run)
        for some in made_in_threads(together, groups, alone=alone, ahead=ANSWERS_AHEAD):
            made |= some
            ticker.advance(len(some))
    return tuple(made[i] for i in range(len(probes)))


def _of_equal_lengths(probes: Sequence[Probe], most: int) -> list[list[int]]:
    """Return the places of probes that need no padding beside each other, of at most so many tokens together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, probe in enumerate(probes):
        groups.setdefault(tuple(probe.encoding.lengths.values()), []).append(i)
    made = []
    for lengths, places in groups.items():
        size = max(1, most // max(lengths))
        made += [places[k : k + size] for k in range(0, len(places), size)]
    return made


def _together(model: "TorchModel", probes: Sequence[Probe], rows: Sequence[int], run: Run) -> dict[int, Judged]:
    """Run some probes in one batch; returns answers by their places."""
    specs = model.specs
    outputs = model.task.answer(specs, run, feed_of(model, [probes[i].encoding for i in rows]))
    made = {}
    for row, i in enumerate(rows):
        example, encoding = probes[i].example, probes[i].encoding
        made[i] = Judged(example, encoding, own_outputs(outputs, row, encoding, model.task, specs))
    return made


def judge_batched(
    model: "TorchModel", probes: Sequence[Probe], run: Run, progress: "Progress", title: str
) -> tuple[Judged, ...]:
    """Run texts of like length together; answers come in the order of `probes`."""
    order = sorted(range(len(probes)), key=lambda i: probes[i].encoding.length)
    made: dict[int, Judged] = {}
    with progress.task(title, total=len(probes)) as ticker:
        while len(made) < len(order):
            waiting, size = order[len(made) :], 1
            while size < len(waiting) and (size + 1) * probes[waiting[size]].encoding.length <= BATCH_TOKENS:
                size += 1
            made |= _together(model, probes, waiting[:size], run)
            ticker.advance(size)
    return tuple(made[i] for i in range(len(probes)))


def asked_for_score(
    model: "TorchModel", task: "Task", probes: Sequence[Probe], run: Run, progress: "Progress", title: str
) -> tuple[Judged, ...]:
    """Return what examples are scored by where that is asked for apart; `task` has the settings it is done with."""
    made, specs = [], model.specs
    with progress.task(title, total=len(probes)) as ticker:
        for probe in probes:
            outputs = task.scored_outputs(specs, run, probe.example, probe.encoding)
            made.append(Judged(probe.example, probe.encoding, outputs))
            ticker.advance()
    return tuple(made)


def own_outputs(
    outputs: Mapping[str, "NDArray[np.float32]"],
    row: int,
    encoding: Encoding,
    task: "Task",
    specs: Mapping[str, GraphSpec],
) -> dict[str, "NDArray[np.float32]"]:
    """Take one example out of a batch, without its padding, and of that what its task compares."""
    *_, last = specs.values()
    return dict(task.compared(last.own_of(outputs, encoding.lengths, row), encoding))


def capture_reference(
    model: "TorchModel",
    examples: Sequence[Example],
    progress: "Progress",
    evaluation: Sequence[Example] = (),
    notes: Sequence[str] = (),
    drafts: Callable[[Sequence[Probe]], Sequence[Any]] | None = None,
) -> Reference:
    """Run the source on every probe and keep what it answers; score it on the whole of `evaluation`.

    `notes` are those on the data; those on the metric are added. `drafts`: what is written after each text, where that
    is known; the source, asked alone, must choose every token of it.

    Raises:
        SourceError: the source itself answers NaN or infinity; the text is named.

    """
    probes, run = encode_probes(model, windows_of(model, examples)), torch_run(model)
    if model.cache is not None:
        judged = _written(model, probes, run, progress, () if drafts is None else drafts(probes))
    else:
        judged = judge(model, probes, run, progress, "Running the source model")
    _refuse_nan(judged)
    return _scored(model, judged, [e for e in evaluation or examples if e.label is not None], progress, notes)


def _written(
    model: "TorchModel", probes: Sequence[Probe], run: Run, progress: "Progress", known: Sequence[Any] = ()
) -> tuple[Judged, ...]:
    """Let the source write an answer to each text: everything after it is held to these.

    They are drafted several at a time, and written again alone where the source, asked alone, chooses another token.
    """
    from converter.forward import side_by_side

    task: Any = model.task
    made, specs = [], model.specs

    def written(pair: tuple[Probe, Encoding]) -> Judged:
        probe, draft = pair
        one = run_probe(model, Probe(probe.example, draft), run)
        if task.stands(draft, one.outputs):
            return one
        return run_probe(model, Probe(probe.example, task.continued(specs, run, probe.encoding)), run)

    with progress.task("The source model writes", total=len(probes)) as ticker:
        drafts = task.drafted(specs, run, [p.encoding for p in probes], known)
        for one in made_in_threads(written, zip(probes, drafts, strict=True), alone=not side_by_side(model)):
            made.append(one)
            ticker.advance()
    return tuple(made)


def _scored(
    model: "TorchModel",
    judged: tuple[Judged, ...],
    labelled: Sequence[Example],
    progress: "Progress",
    notes: Sequence[str],
) -> Reference:
    """Complete a reference: texts that are probes too are not run again for the score."""
    scored = encode_probes(model, windows_of(model, labelled))
    title = "Evaluating the source model"
    known: dict[Example, Judged] = {}
    rest: list[Probe] = []
    if model.task.scored_apart:
        gold = list(asked_for_score(model, model.task, scored, torch_run(model), progress, title))
    else:
        known = {j.example: j for j in judged}
        rest = [p for p in scored if p.example not in known]
        known |= {j.example: j for j in judge_batched(model, rest, torch_run(model), progress, title)}
        gold = [known[p.example] for p in scored]
    metric = model.task.metric(gold) if gold else {}
    return _reference(
        model,
        judged,
        scored,
        metric=metric,
        chance=model.task.chance([e for e in labelled if not e.window]) if labelled else None,
        score=replace(
            score_parts(model.task, gold, metric), rest=_rest_decisions(model, [known[p.example] for p in rest])
        ),
        notes=tuple(dict.fromkeys((*notes, *(model.task.metric_notes(gold) if gold else ())))),
    )


def _rest_decisions(model: "TorchModel", rest: Sequence[Judged]) -> tuple[Any, ...]:
    """Return the decisions on texts that are no probes; those of models that write text are compared by none."""
    return tuple(model.task.decisions(rest)) if rest and model.cache is None else ()


def _reference(
    model: "TorchModel",
    judged: tuple[Judged, ...],
    scored: tuple[Probe, ...],
    metric: dict[str, float],
    chance: float | None,
    notes: tuple[str, ...],
    score: Score,
) -> Reference:
    names = judged[0].outputs if judged else ()
    return Reference(
        judged=judged,
        decisions=tuple(model.task.decisions(judged)) if judged else (),
        output_range={name: _range([j.outputs[name] for j in judged]) for name in names},
        metric=metric,
        chance=chance,
        scored=scored,
        notes=notes,
        score=score,
    )


def at_length(
    source: "TorchModel", reference: Reference, length: int | None, progress: "Progress"
) -> "tuple[TorchModel, Reference]":
    """Return source and reference as they are when every text is cut to `length` tokens."""
    if length is None or all(p.encoding.length <= length for p in (*reference.probes, *reference.scored)):
        return source, reference
    short = _cut(source, length)
    in_windows = {replace(j.example, window=0) for j in reference.judged if j.example.window}
    known = {
        j.example: j
        for j in reference.judged
        if j.encoding.length <= length and replace(j.example, window=0) not in in_windows
    }
    probes = encode_probes(short, windows_of(short, [j.example for j in reference.judged]))
    if source.cache is not None:
        # A text that leaves room for an answer is cut before the limit, though its own answer may have ended in time.
        known = {
            p.example: known[p.example]
            for p in probes
            if p.example in known and p.encoding.has_tokens_of(known[p.example].encoding)
        }
    missing = tuple(p for p in probes if p.example not in known)
    if source.cache is not None:
        judged = _written(short, missing, torch_run(short), progress)
    else:
        judged = judge(short, missing, torch_run(short), progress, "Running the source on truncated texts")
    known |= {j.example: j for j in judged}
    judged = tuple(known[p.example] for p in probes)
    _refuse_nan(judged)
    if any(p.encoding.length > length for p in reference.scored):
        made = _scored(short, judged, [p.example for p in reference.scored], progress, reference.notes)
    else:
        made = _reference(
            short, judged, reference.scored, reference.metric, reference.chance, reference.notes, reference.score
        )
    return short, replace(made, text=reference.text)


def _cut(source: "TorchModel", length: int) -> "TorchModel":
    """Return the model that takes `length` tokens; one that writes text writes no further."""
    if source.cache is None:
        return replace(source, max_length=length)
    task: Any = copy(source.task)
    task.settings = replace(task.settings, context=length)
    return replace(source, max_length=length, task=task)


def _refuse_nan(judged: Sequence[Judged]) -> None:
    for one in judged:
        for name, value in one.outputs.items():
            if not np.isfinite(value).all():
                raise SourceError(
                    f"the source itself answers NaN or infinity in {name} to {one.example.text[:80]!r}",
                    hint="the checkpoint is damaged, or overflows float32",
                )


def _range(values: Sequence["NDArray[np.float32]"]) -> float:
    return float(max(v.max() for v in values) - min(v.min() for v in values))
