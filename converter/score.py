"""A score on labelled texts taken apart, so that two models can be compared text by text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import units_of

if TYPE_CHECKING:
    from converter.task import Judged, Task

GROUPS = 40
"""Groups of texts that a score is taken without, one by one: its spread is told from them."""
EQUAL = 1e-9


@dataclass(frozen=True)
class Score:
    """The source's score on the labelled texts in parts, so that a package's can be compared text by text."""

    right: tuple[bool, ...] = ()
    """Of each text, in the order of `units_of`; empty where the metric is no share of right answers."""
    without: tuple[float, ...] = ()
    """The metric without each of up to `GROUPS` equal groups of texts; empty where `right` serves."""
    rest: tuple[Any, ...] = ()
    """Decisions on the labelled texts that are no probes, among themselves; empty where they are not compared."""


def score_parts(task: "Task", gold: "Sequence[Judged]", metric: Mapping[str, float]) -> Score:
    """Take a score on labelled texts apart: right or wrong by text, else the score without each group of them."""
    if not metric:
        return Score()
    name, units = task.metric_name, units_of([j.example for j in gold])
    if name == "accuracy" and len(units) == len(gold):
        right = tuple(bool(d == j.example.label) for d, j in zip(task.decisions(gold), gold, strict=True))
        if abs(float(np.mean(right)) - metric[name]) < EQUAL:
            return Score(right)
    groups = min(GROUPS, len(units))
    if groups < 2:
        return Score()
    # A text in windows is dear to score, and its score is a mean over texts: each is scored once.
    each = [float(task.metric([gold[i] for i in rows]).get(name, np.nan)) for rows in units] if task.windowed else []
    if each and abs(float(np.mean(each)) - metric[name]) < EQUAL:
        own = np.asarray(each)
        return Score(without=tuple(float(own[np.arange(len(own)) % groups != g].mean()) for g in range(groups)))
    without = []
    for g in range(groups):
        kept = [gold[i] for k, rows in enumerate(units) if k % groups != g for i in rows]
        without.append(float(task.metric(kept).get(name, np.nan)))
    return Score(without=tuple(without))
