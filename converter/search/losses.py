"""How a candidate answers, text by text, so that two of them can be compared on the same texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.reference import Reference
from converter.score import Score, score_parts
from converter.task import Judged

if TYPE_CHECKING:
    from converter.artifact import TorchModel


@dataclass(frozen=True)
class Scored:
    """Answers against the source's; `losses` as in `Figures`."""

    loss: float
    metric: float | None
    drop: float | None
    agreement: float
    losses: tuple[float, ...]


def score_of(
    source: "TorchModel", reference: Reference, judged: Sequence[Judged], rows: Sequence[int] | None = None
) -> Scored:
    """Return how `judged` compares with the reference; `rows`: which of its texts these are, None: all.

    Where every text is labelled, losses are those of the metric; else the share of texts with another answer.
    """
    task = source.task
    known = list(range(len(reference.judged))) if rows is None else list(rows)
    theirs = [reference.judged[i] for i in known]
    decisions: list[Any] = list(task.decisions(judged))
    pairs = zip([reference.decisions[i] for i in known], decisions, strict=True)
    other = [1.0 - float(task.same(a, b)) for a, b in pairs]
    agreement = 1.0 - float(np.mean(other))
    if not reference.metric or any(one.example.label is None for one in theirs):
        return Scored(1.0 - agreement, None, None, agreement, tuple(other))
    before, after = _metric(source, theirs), _metric(source, judged)
    drop = float(task.drop(before[0], after[0]))
    return Scored(drop, after[0], drop, agreement, _parts(source, drop, before[1], after[1]))


def _metric(source: "TorchModel", judged: Sequence[Judged]) -> tuple[float, Score]:
    metric = source.task.metric(list(judged))
    return float(metric[source.task.metric_name]), score_parts(source.task, list(judged), metric)


def _parts(source: "TorchModel", drop: float, before: Score, after: Score) -> tuple[float, ...]:
    """Return the drop in parts whose mean it is: of texts, or of groups of them (jackknife pseudo-values)."""
    if before.right and len(before.right) == len(after.right):
        return tuple(float(a) - float(b) for a, b in zip(before.right, after.right, strict=True))
    if before.without and len(before.without) == len(after.without):
        n = len(before.without)
        falls = [float(source.task.drop(a, b)) for a, b in zip(before.without, after.without, strict=True)]
        return tuple(n * drop - (n - 1) * fall for fall in falls)
    return (drop,)
