"""When a gate proves nothing: a source that says the same to every text is matched by anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.reference import Reference
    from converter.task import Task

CHANCE_MARGIN = 0.02
"""Share of the room above chance that a source must win: less than that is luck on a few hundred texts."""
CONSTANT_SPREAD = 1e-5
"""Change from text to text, relative to the largest value, under which an output is a constant (float32 noise)."""


def answers_alike(reference: "Reference", task: "Task") -> str | None:
    """Return why agreement of decisions would prove nothing, or None."""
    if not reference.judged:
        return "there are no texts to compare"
    if len(reference.judged) == 1:
        return "there is only one text to compare"
    if task.distinct(reference.decisions) <= 1:
        return f"the source itself gives the same answer to all {len(reference.judged)} texts"
    return task.idle(reference.decisions)


def outputs_constant(reference: "Reference") -> str | None:
    """Return why errors of the outputs would prove nothing, or None."""
    if not reference.judged:
        return "there are no texts to compare"
    for name in reference.output_range:
        rows = [j.outputs[name] for j in reference.judged]
        if len(rows) > 1 and _spread(rows) > CONSTANT_SPREAD * max(float(np.abs(r).max()) for r in rows):
            return None
    return f"the outputs of the source do not change over {len(reference.judged)} text(s)"


def at_chance(reference: "Reference", task: "Task") -> str | None:
    """Return why the score on labelled text proves nothing, or None (also where nothing is labelled)."""
    if not reference.metric or reference.chance is None:
        return None
    found, chance = reference.metric[task.metric_name], reference.chance
    # Written so that a NaN score (Spearman of a constant) is not better than chance.
    if found < chance * (1 - CHANCE_MARGIN) if task.lower_is_better else found > chance + CHANCE_MARGIN * (1 - chance):
        return None
    return _told_of_chance(task, found, chance, reference.n_scored)


def _told_of_chance(task: "Task", found: float, chance: float, n_texts: int) -> str:
    if chance >= 1 and not task.lower_is_better:
        if task.scored_apart:
            return f"to copy the texts, or to say one and the same to all of them, scores {task.metric_name} 1 too"
        return (
            f"the labels of all {n_texts} texts are alike, so that a model which always says the same "
            f"scores {task.metric_name} 1 too: give --eval a file with labels of every kind"
        )
    asked = "is this text" if task.lower_is_better else "are these labels"
    return (
        f"the source itself scores {task.metric_name} {found:.4f} on {n_texts} labelled texts, no better "
        f"than chance ({chance:.4f}): {asked} the model's?"
    )


def _spread(rows: "Sequence[NDArray[np.float32]]") -> float:
    """Return the largest change of any one component from text to text (from token to token, where it has tokens)."""
    widths = {r.shape[-1:] for r in rows}
    # Start and end scores of a span are as long as their text: no component of one text is also another's.
    width = widths.pop()[0] if len(widths) == 1 and rows[0].ndim else 1
    # Text by text: all of them once more, in float64, are hundreds of megabytes for a large vocabulary.
    flat = [one for one in (np.asarray(r).reshape(-1, width) for r in rows) if one.size]
    if not flat:
        return 0.0
    high = np.max([one.max(axis=0) for one in flat], axis=0).astype(np.float64)
    return float((high - np.min([one.min(axis=0) for one in flat], axis=0)).max())
