"""One model, in whatever runtime, against the source's answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import is_edge
from converter.graphs import Run
from converter.reference import Probe, Reference, asked_for_score
from converter.score import Score, score_parts
from converter.scoring.percentile import Highest
from converter.scoring.relative_error import RANGE_FLOOR
from converter.task import Judged, Task
from converter.validate.answers import Answers, RunFailed, ask, shorten
from converter.validate.bounds import agreement_check, by_bound, metric_check
from converter.validate.checks import Check, Deviation, Evaluation, Status, WorstText, within
from converter.validate.slices import ComparedText, slice_check, slice_table, slices_of
from converter.validate.ties import by_text, ties_of
from converter.validate.vacuous import answers_alike, at_chance, outputs_constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.precision import Limits
    from converter.stage import Progress

N_WORST = 10
P99 = 0.99
"""Typical is the error that so many of all values do not exceed."""
NOTHING = math.nan
"""The agreement of no texts: not a number, so that no comparison with a limit succeeds."""


@dataclass(frozen=True)
class Comparison:
    """An evaluation, and the answers it was made of."""

    evaluation: Evaluation
    answers: Answers


def compare(
    source: "TorchModel", reference: Reference, run: Run, limits: "Limits", progress: "Progress", title: str
) -> Evaluation:
    """Run every probe through `run` and judge it against the reference within `limits`.

    Raises:
        RunFailed: the runtime refused a text.

    """
    return compare_answers(source, reference, run, limits, progress, title).evaluation


def compare_answers(
    source: "TorchModel",
    reference: Reference,
    run: Run,
    limits: "Limits",
    progress: "Progress",
    title: str,
    scorer: "Task | None" = None,
) -> Comparison:
    """Do what `compare` does, and keep the answers; `scorer` has the settings of its own that a package ships."""
    answers = ask(source, reference.probes, run, progress, title, reference.judged)
    errors = {name: _errors(name, reference, answers) for name in _compared(reference, answers)}
    deviations = tuple(_deviation(name, reference, answers, errors[name]) for name in errors)
    same = _same(source, reference, answers)
    scoring = f"{title}: the evaluation file"
    rest = ask(source, _unasked(source, reference), run, progress, scoring)
    # A text in windows is one text: all of them carry its one answer.
    texts = [_text(answers, reference.decisions, same, i) for i in _firsts(answers)]
    n_probes = len(texts)
    texts += _rest(source, reference, rest)
    agreement = float(np.mean([t.same for t in texts])) if texts else NOTHING
    if source.task.scored_apart:
        gold = _gold_apart(source, reference, scorer or source.task, run, progress, scoring)
    else:
        gold = _gold(reference, answers, rest)
    metric = source.task.metric(gold) if gold else {}
    score = score_parts(source.task, gold, metric) if limits.max_drop is not None else Score()
    worst_of = [max((e.worst[i] for e in errors.values()), default=math.inf) for i in range(len(same))]
    ties = ties_of([t.same for t in texts[:n_probes]], by_text(answers.judged, worst_of), limits)
    judged = [replace(t, same=1.0) if i in ties else t for i, t in enumerate(texts)]
    judgement = _judgement(source, reference, _with_right(judged, reference, score), metric, score, limits, len(ties))
    checks = (
        finite_check(answers, rest),
        *error_checks(deviations, limits, outputs_constant(reference)),
        *judgement.checks,
    )
    evaluation = Evaluation(
        checks=checks,
        deviations=deviations,
        agreement=agreement,
        metric=metric,
        source_metric=reference.metric,
        n_probes=n_probes,
        errors=tuple(float(e) for e in worst_of),
        worst=_worst(source, reference, answers, same, worst_of),
        facts=_facts(reference) | judgement.facts,
    )
    return Comparison(evaluation, answers)


def _facts(reference: Reference) -> dict[str, Any]:
    return {"output_range": reference.output_range, "n_scored": reference.n_scored, "chance": reference.chance}


def finite_check(*asked: Answers) -> Check:
    """Judge that every number of every answer is finite, and of the shape that the source answers with."""
    n = sum(len(a.judged) for a in asked)
    if not n:
        return Check("finite", Status.NOT_RUN, detail="there are no texts to compare")
    fault = next(filter(None, (a.fault() for a in asked)), None)
    if fault:
        return Check("finite", Status.FAIL, float(n - sum(len(a.faults) for a in asked)), float(n), fault)
    return Check("finite", Status.PASS, float(n), float(n), f"no NaN or infinite output in {n} texts")


def error_checks(deviations: Sequence[Deviation], limits: "Limits", vacuous: str | None) -> list[Check]:
    """Judge max_error, mean_error and cosine, each over its worst output; those without a limit are not judged."""
    found: tuple[tuple[str, str, Any, float | None, bool], ...] = (
        ("max_error", "the worst error is {:.3g} of the output range", max, limits.max_error, False),
        ("mean_error", "the mean error is {:.3g} of the output range", max, limits.mean_error, False),
        ("cosine", "the mean cosine to the source is {:.6f}", min, limits.cosine, True),
    )
    checks = []
    for name, sentence, worst, limit, at_least in found:
        if limit is None:
            continue
        if vacuous or not deviations:
            checks.append(Check(name, Status.NOT_RUN, None, limit, vacuous or "there is no output to compare"))
            continue
        value = worst(getattr(d, name) for d in deviations)
        which = f" in {next(d.output for d in deviations if getattr(d, name) == value)}" if len(deviations) > 1 else ""
        bound = f"{'at least' if at_least else 'at most'} {limit:g} wanted"
        checks.append(
            Check(
                name,
                within(value, limit, at_least=at_least),
                value,
                limit,
                sentence.format(value) + f"{which}; {bound}",
            )
        )
    return checks


def metric_checks(
    source: "TorchModel", reference: Reference, metric: dict[str, float], found: Score, limits: "Limits"
) -> tuple[list[Check], dict[str, Any]]:
    """Judge the fall of the task's metric; without labels or a limit there is nothing to judge."""
    if limits.max_drop is None:
        return [], {}
    reason = (
        at_chance(reference, source.task) if reference.metric else "there are no labels: give --eval a labelled file"
    )
    if reason:
        return [Check("metric", Status.NOT_RUN, None, limits.max_drop, reason)], {}
    check, told = metric_check(source, reference, metric, found, limits)
    return [check], told


def _vacuous(source: "TorchModel", reference: Reference) -> str | None:
    return answers_alike(reference, source.task) or outputs_constant(reference) or at_chance(reference, source.task)


def _compared(reference: Reference, answers: Answers) -> list[str]:
    return [n for n in reference.output_range if all(n in j.outputs for j in answers.judged)]


@dataclass(frozen=True)
class _Errors:
    """Absolute errors over the output range: of each text, and of all values together."""

    worst: list[float]
    mean: list[float]
    p99: float


def _errors(name: str, reference: Reference, answers: Answers) -> _Errors:
    """Return how far one output is off; infinitely where the answer was unsound."""
    scale = max(reference.output_range[name], RANGE_FLOOR)
    pairs = list(zip(reference.judged, answers.judged, strict=True))
    worst: list[float] = []
    mean: list[float] = []
    most = Highest(sum(found.outputs[name].size for _, found in pairs), P99)
    for i, (wanted, found) in enumerate(pairs):
        error = np.abs(found.outputs[name].astype(np.float64) - wanted.outputs[name]) / scale
        if i in answers.faults:
            error.fill(np.inf)
        worst.append(float(error.max()))
        mean.append(float(error.mean()))
        most.add(error)
    return _Errors(worst, mean, most.value())


def _deviation(name: str, reference: Reference, answers: Answers, errors: _Errors) -> Deviation:
    cosines = [
        0.0 if i in answers.faults else cosine(wanted.outputs[name], found.outputs[name])
        for i, (wanted, found) in enumerate(zip(reference.judged, answers.judged, strict=True))
    ]
    return Deviation(
        name,
        max(errors.worst),
        float(np.mean(errors.mean)),
        float(np.mean(cosines)),
        errors.p99,
    )


def cosine(wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> float:
    """Return the cosine of two arrays taken as vectors; 1 for two zero vectors, 0 where only one is zero."""
    a, b = wanted.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(a @ b / (lengths[0] * lengths[1]))


def _same(source: "TorchModel", reference: Reference, answers: Answers) -> list[float]:
    return _same_as(source, reference.decisions, answers)


def _same_as(source: "TorchModel", wanted: Sequence[Any], answers: Answers) -> list[float]:
    if not answers.judged:
        return []
    pairs = zip(wanted, source.task.decisions(answers.judged), strict=True)
    return [0.0 if i in answers.faults else source.task.same(a, b) for i, (a, b) in enumerate(pairs)]


def _firsts(answers: Answers) -> list[int]:
    """Return where the first window of each text stands."""
    seen, made = set(), []
    for i, one in enumerate(answers.judged):
        text = replace(one.example, window=0)
        if not one.example.window or text not in seen:
            made.append(i)
        seen.add(text)
    return made


def _unasked(source: "TorchModel", reference: Reference) -> list[Probe]:
    """Return the labelled texts that are no probes: only they are still to be run."""
    if source.task.scored_apart:
        return []
    known = {j.example for j in reference.judged}
    return [p for p in reference.scored if p.example not in known]


def _gold(reference: Reference, answers: Answers, rest: Answers) -> list[Judged]:
    """Return the answers to the whole evaluation file, in its order."""
    known: dict[Any, Judged] = {j.example: j for j in (*answers.judged, *rest.judged)}
    return [known[p.example] for p in reference.scored]


def _text(answers: Answers, decisions: Sequence[Any], same: Sequence[float], i: int) -> ComparedText:
    one = answers.judged[i]
    return ComparedText(one.example, one.encoding.length, decisions[i], same[i])


def _rest(source: "TorchModel", reference: Reference, rest: Answers) -> list[ComparedText]:
    """Compare what the labelled texts that are no probes decide, among themselves."""
    wanted = reference.score.rest
    if not wanted or len(wanted) != len(rest.judged):
        return []
    same = _same_as(source, wanted, rest)
    return [_text(rest, wanted, same, i) for i in _firsts(rest)]


def _with_right(texts: Sequence[ComparedText], reference: Reference, found: Score) -> list[ComparedText]:
    """Add, where answers are right or wrong, which of the two models is right."""
    if not reference.score.right or len(reference.score.right) != len(found.right):
        return list(texts)
    pairs = zip(reference.score.right, found.right, strict=True)
    known = dict(zip((p.example for p in reference.scored), pairs, strict=True))
    return [replace(t, right=known.get(t.example)) for t in texts]


@dataclass(frozen=True)
class _Judgement:
    checks: tuple[Check, ...]
    facts: dict[str, Any]


def _judgement(
    source: "TorchModel",
    reference: Reference,
    texts: Sequence[ComparedText],
    metric: dict[str, float],
    score: Score,
    limits: "Limits",
    n_ties: int = 0,
) -> _Judgement:
    """Judge what samples of text tell: agreement, the metric, and the slices; `n_ties`: those taken for the same."""
    text, vacuous = reference.text, _vacuous(source, reference)
    ordinary = [t.same for t in texts if not is_edge(t.example)]
    agreed, told = agreement_check([t.same for t in texts], ordinary, limits, text, vacuous)
    if n_ties:
        agreed = replace(agreed, detail=f"{agreed.detail}; {n_ties} of them by a tie of the source's own outputs")
        told = {**told, "ties": n_ties}
    scored, said = metric_checks(source, reference, metric, score, limits)
    facts: dict[str, Any] = {
        "text": text.origin,
        "confidence": text.confidence,
        "decided_by": "bound" if by_bound(text, limits) else "value",
        **told,
        **said,
    }
    if limits.agreement is None or vacuous:
        return _Judgement((agreed, *scored), {"statistics": facts})
    slices = slices_of(texts, source.task, limits, text)
    check = slice_check(slices, limits)
    return _Judgement(
        (agreed, *scored, *([check] if check else [])), {"statistics": facts, "slices": slice_table(slices)}
    )


def _gold_apart(
    source: "TorchModel", reference: Reference, scorer: "Task", run: Run, progress: "Progress", title: str
) -> list[Judged]:
    """Return what the package does on its own with the evaluation file.

    Raises:
        RunFailed: the runtime refused a text; its classes of error are its own, so all are caught.

    """
    try:
        return list(asked_for_score(source, scorer, reference.scored, run, progress, title))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not answer the evaluation file: {reason}") from error


def _worst(
    source: "TorchModel", reference: Reference, answers: Answers, same: Sequence[float], errors: Sequence[float]
) -> tuple[WorstText, ...]:
    """Return the texts that came out worst: other answers first, then by error; the largest error is among them."""
    if not answers.judged:
        return ()
    found = source.task.decisions(answers.judged)
    order = sorted((i for i in range(len(same)) if errors[i] > 0), key=lambda i: (same[i], -errors[i]))
    shown = order[:N_WORST]
    if order and (largest := max(order, key=lambda i: errors[i])) not in shown:
        shown[-1] = largest
    return tuple(
        WorstText(
            text=shorten(" ⏎ ".join(filter(None, (e.text, e.pair))), 300),
            wanted=source.task.describe(reference.decisions[i], e),
            found=answers.faults.get(i) or source.task.describe(found[i], e),
            error=float(errors[i]),
        )
        for i in shown
        for e in (reference.judged[i].example,)
    )
