"""What agreement and metric decide: by their bounds on text of the user's own, by their values on any other.

A value measured on few texts is luck. On the user's own text a package passes where the unfavourable bound keeps to
the limit, fails where the favourable one does not, and is else undecided: NOT_RUN, with the number of texts that would
settle it. Built-in text and text that was calibrated on are no sample of what the user's application reads: there the
value decides, and the verdict says on what.

Where the precision is held to the output values themselves (`max_error`), every answer follows from them: the share of
equal answers is then no estimate from a sample, and its value decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from converter.examples import JudgedText, Origin
from converter.scoring.intervals import (
    Interval,
    decide,
    drop_like,
    jackknife_drop,
    paired_drop,
    paired_like,
    share_interval,
    share_like,
    texts_to_settle,
)
from converter.validate.checks import Check, Status, within

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.precision import Limits
    from converter.reference import Reference
    from converter.score import Score
    from converter.task import Task

Like = Callable[[int], Interval]
STATUS = {True: Status.PASS, False: Status.FAIL, None: Status.NOT_RUN}


def by_bound(text: JudgedText, limits: "Limits") -> bool:
    """Tell whether bounds decide, and not values."""
    return text.origin is Origin.OWN and limits.max_error is None


def agreement_check(
    same: Sequence[float], ordinary: Sequence[float], limits: "Limits", text: JudgedText, vacuous: str | None
) -> tuple[Check, dict[str, Any]]:
    """Judge the share of texts with the same answer; `ordinary` are those of them that are no edge cases."""
    found = share_interval(ordinary or same, text.confidence) if same else None
    told = {"agreement": _rounded(found)} if found else {}
    limit = limits.agreement
    if vacuous or limit is None or found is None:
        reason = vacuous or ("no limit is set" if limit is None else "there are no texts to compare")
        return Check("agreement", Status.NOT_RUN, None, limit, reason), told
    value = sum(same) / len(same)
    equal = sum(s >= 1 for s in same)
    which = f" on the {found.n} that are no edge cases" if found.n < len(same) else ""
    detail = (
        f"{equal} of {len(same)} texts get the same answer (agreement {value:.4f}{_between(found, text)}{which}); "
        f"at least {limit:g} wanted"
    )
    if not by_bound(text, limits):
        status = within(value, limit, at_least=True)
        return Check("agreement", status, value, limit, f"{detail}; {_on(text)}"), told
    decided = decide(found, limit, at_least=True)
    if decided is None:
        settling = texts_to_settle(found, limit, share_like(found, text.confidence), at_least=True)
        return Check("agreement", Status.NOT_RUN, value, limit, f"{undecided(found, settling)}: {detail}"), (
            told | {"texts_needed": settling}
        )
    return Check("agreement", STATUS[decided], value, limit, f"{detail}; {_on(text)}, decided by the bound"), told


def metric_check(
    source: "TorchModel", reference: "Reference", metric: dict[str, float], found: "Score", limits: "Limits"
) -> tuple[Check, dict[str, Any]]:
    """Judge the drop of the task's metric; `found` is the package's score in parts."""
    text, limit, name = reference.text, limits.max_drop, source.task.metric_name
    assert limit is not None
    before, after = reference.metric[name], metric[name]
    drop = source.task.drop(before, after)
    interval, like = drop_interval(source.task, drop, reference.score, found, reference.n_scored, text.confidence)
    worse, better, of = ("rises", "falls", "rise") if source.task.lower_is_better else ("falls", "rises", "drop")
    unit = " of it" if source.task.lower_is_better else ""
    moved = f"{worse} by {drop:.4f}{unit}" if drop > 0 else f"{better} by {-drop:.4f}{unit}" if drop < 0 else ""
    bounds = f", a {of} of {_between(interval, text).removeprefix(', ')}" if interval else ""
    detail = (
        f"{name} {moved or 'stays the same'} ({before:.4f} to {after:.4f} on {reference.n_scored} labelled "
        f"texts{bounds}); a {of} of at most {limit:g}{unit} is allowed"
    )
    told = {"metric": {"name": name, **_rounded(interval)}} if interval else {}
    if interval is None or like is None or not by_bound(text, limits):
        # Scores are ratios of counts: their difference may exceed an exact limit by rounding alone.
        return Check("metric", within(drop - 1e-9, limit), drop, limit, f"{detail}; {_on(text)}"), told
    decided = decide(interval, limit)
    if decided is None:
        settling = texts_to_settle(interval, limit, like)
        said = f"{undecided(interval, settling)}: {detail}"
        # A default limit that the texts do not settle proves nothing and breaks nothing: agreement decides.
        value = drop if text.drop_asked else None
        return Check("metric", Status.NOT_RUN, value, limit, said), told | {"metric_texts_needed": settling}
    return Check("metric", STATUS[decided], drop, limit, f"{detail}; {_on(text)}, decided by the bound"), told


def drop_interval(
    task: "Task", drop: float, source: "Score", package: "Score", n: int, confidence: float
) -> tuple[Interval | None, Like | None]:
    """Return a drop with bounds, and what it would be on other numbers of texts; None where nothing tells it."""
    if source.right and len(source.right) == len(package.right):
        pairs = list(zip(source.right, package.right, strict=True))
        worse, better = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        return paired_drop(worse, better, len(pairs), confidence), paired_like(worse, better, len(pairs), confidence)
    if source.without and len(source.without) == len(package.without):
        without = [task.drop(a, b) for a, b in zip(source.without, package.without, strict=True)]
        found = jackknife_drop(drop, without, n, confidence)
        return found, drop_like(found, confidence)
    return None, None


def undecided(found: Interval, settling: int | None) -> str:
    """Return the sentence on a figure that neither bound decides."""
    if settling is None:
        return f"undecided on {found.n} texts, and the value lies so near the limit that no number of texts settles it"
    return f"undecided on {found.n} texts, about {settling} like these would settle it"


def _between(found: Interval, text: JudgedText) -> str:
    return f", {found.low:.4f} to {found.high:.4f} at {text.confidence:g} confidence"


def _on(text: JudgedText) -> str:
    return "on your own text" if text.origin is Origin.OWN else f"on {text.origin}"


def _rounded(found: Interval) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(found).items()}
