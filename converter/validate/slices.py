"""Agreement by kinds of text: a package that breaks one kind may still be good on the mean of all."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import is_edge
from converter.examples import Example, JudgedText
from converter.scoring.intervals import decide, paired_drop, share_interval
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.precision import Limits
    from converter.task import Task

LEAST = 10
"""Fewer texts make no slice."""
ROOM = 2.0
"""A slice may lose this many times what the whole may: some kinds of text are harder than others."""
MOST_LABELS = 50


@dataclass(frozen=True)
class ComparedText:
    """One text, and how its answer compares."""

    example: Example
    tokens: int
    decision: Any
    """The source's."""
    same: float
    right: tuple[bool, bool] | None = None
    """Whether source and package give its label; None where that is not known."""


@dataclass(frozen=True)
class Slice:
    """The texts of one kind."""

    by: str
    name: str
    n: int
    agreement: float
    low: float
    high: float
    status: Status
    """FAIL: surely below what a slice may lose. NOT_RUN: its texts do not settle it."""
    drop: float | None = None
    """Of the share of right answers; None where there are no labels."""


def slices_of(texts: Sequence[ComparedText], task: "Task", limits: "Limits", text: JudgedText) -> list[Slice]:
    """Return every slice of at least `LEAST` texts; edge cases are of no slice.

    Many slices are looked at, so each bound is as sure as makes all of them together hold with the text's confidence.
    """
    ordinary = [t for t in texts if not is_edge(t.example)]
    kinds: dict[str, Callable[[], Names]] = {
        "label": lambda: _labels(ordinary, task),
        "length": lambda: _lengths(ordinary),
        "script": lambda: _scripts(ordinary),
        "rare": lambda: _rare(ordinary),
    }
    found = [
        (by, name, rows)
        for by in text.slices
        for name, rows in _grouped(ordinary, kinds[by]())
        if LEAST <= len(rows) < len(ordinary)
    ]
    sure = 1.0 - (1.0 - text.confidence) / max(1, len(found))
    return [_judged(by, name, rows, limits, sure) for by, name, rows in found]


def slice_check(found: Sequence[Slice], limits: "Limits") -> Check | None:
    """Judge all slices: FAIL where one surely breaks; None where there is nothing to judge."""
    if not found or limits.agreement is None:
        return None
    limit = slice_limit(limits.agreement)
    lowest = min(found, key=lambda s: s.agreement)
    broken = sorted((s for s in found if s.status is Status.FAIL), key=lambda s: s.agreement)
    shown = broken[0] if broken else lowest
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    detail = f"{'broken' if broken else 'the lowest'} of {len(found)} slices{more}: {said(shown)}"
    if shown.drop is not None and limits.max_drop is not None:
        detail += f", right answers fall by {shown.drop:.4f}"
    detail += f"; a slice may lose {ROOM:g} times what the whole may (at least {limit:g} wanted)"
    return Check("slices", Status.FAIL if broken else Status.PASS, shown.agreement, limit, detail)


def slice_limit(agreement: float) -> float:
    """Return the least agreement of a slice.

    >>> round(slice_limit(0.97), 2)
    0.94
    """
    return max(0.0, 1.0 - ROOM * (1.0 - agreement))


def said(one: Slice) -> str:
    """Return a slice in words."""
    return (
        f"{one.by} {one.name!r}: {one.agreement:.4f} of {one.n} texts get the same answer "
        f"({one.low:.4f} to {one.high:.4f})"
    )


def slice_table(found: Sequence[Slice]) -> list[dict[str, Any]]:
    """Return the slices as a report and a manifest keep them, the lowest first."""
    rows = [asdict(s) for s in sorted(found, key=lambda s: (s.agreement, -s.n))]
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _judged(by: str, name: str, rows: Sequence[ComparedText], limits: "Limits", sure: float) -> Slice:
    share = share_interval([r.same for r in rows], sure)
    states = []
    if limits.agreement is not None:
        states.append(decide(share, slice_limit(limits.agreement), at_least=True))
    pairs = [r.right for r in rows if r.right is not None]
    drop = None
    if len(pairs) == len(rows):
        fallen = paired_drop(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(rows), sure)
        drop = fallen.value
        if limits.max_drop is not None:
            states.append(decide(fallen, ROOM * limits.max_drop))
    status = Status.FAIL if False in states else Status.NOT_RUN if None in states or not states else Status.PASS
    return Slice(by, name, len(rows), share.value, share.low, share.high, status, drop)


Names = Sequence[tuple[str, ...]]
"""The slices that each text is in."""


def _grouped(texts: Sequence[ComparedText], names: Names) -> Iterator[tuple[str, list[ComparedText]]]:
    made: dict[str, list[ComparedText]] = {}
    for one, own in zip(texts, names, strict=True):
        for name in own:
            made.setdefault(name, []).append(one)
    yield from sorted(made.items())


def _labels(texts: Sequence[ComparedText], task: "Task") -> Names:
    """By the data's label, else by what the source decides."""
    made = [_label(t, task) for t in texts]
    return made if len({n for own in made for n in own}) <= MOST_LABELS else [() for _ in texts]


def _label(one: ComparedText, task: "Task") -> tuple[str, ...]:
    label, names = one.example.label, task.labels
    given = one.decision if label is None else label
    if not names or isinstance(given, (bool, float)):
        return ()
    if isinstance(given, (int, np.integer)):
        return (names[int(given)],) if 0 <= int(given) < len(names) else ()
    if isinstance(given, tuple) and given and all(isinstance(v, str) for v in given):  # tags of words
        return tuple(sorted({str(v).rpartition("-")[2] for v in given if v != "O"})) or ("no entity",)
    if isinstance(given, tuple) and len(given) == len(names) and set(given) <= {0, 1}:
        return tuple(n for n, v in zip(names, given, strict=True) if v) or ("no label",)
    if isinstance(given, frozenset):
        return tuple(names[i] for i in sorted(given) if isinstance(i, int) and i < len(names)) or ("no label",)
    return ()


def _lengths(texts: Sequence[ComparedText]) -> Names:
    """Quarters by tokens: short, middle (two of them) and long."""
    if not texts:
        return []
    low, high = (int(v) for v in np.quantile([t.tokens for t in texts], (0.25, 0.75)))
    short, middle, long = f"up to {low} tokens", f"{low + 1} to {high} tokens", f"more than {high} tokens"
    return [(short if t.tokens <= low else middle if t.tokens <= high else long,) for t in texts]


def _scripts(texts: Sequence[ComparedText]) -> Names:
    return [(script(" ".join((t.example.text, t.example.pair or "", *(t.example.words or ())))),) for t in texts]


def script(text: str) -> str:
    """Return the writing that most letters of a text are of, by Unicode's names; `no letters` where it has none.

    >>> script("Добрый day, друг"), script("12:30")
    ('Cyrillic', 'no letters')
    """
    found = Counter(unicodedata.name(c, "?").partition(" ")[0] for c in text[:2000] if c.isalpha())
    return found.most_common(1)[0][0].capitalize() if found else "no letters"


def _rare(texts: Sequence[ComparedText]) -> Names:
    """The quarter of the texts with the largest share of words that no other judged text has."""
    words = [{w.lower() for w in f"{t.example.text} {t.example.pair or ''}".split()} for t in texts]
    counts = Counter(w for own in words for w in own)
    shares = [sum(counts[w] == 1 for w in own) / max(1, len(own)) for own in words]
    if not shares:
        return []
    high = float(np.quantile(shares, 0.75))
    return [("rare words",) if s > 0 and s >= high else ("common words",) for s in shares]
