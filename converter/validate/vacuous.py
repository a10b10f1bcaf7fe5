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
    found = reference.metric[task.metric_name]
    # Written so that a NaN score (Spearman of a constant) is not better than chance.
    if found > reference.chance + CHANCE_MARGIN * (1 - reference.chance):
        return None
    if reference.chance >= 1:
        return (
            f"the labels of all {reference.n_scored} texts are alike, so that a model which always says the same "
            f"scores {task.metric_name} 1 too: give --eval a file with labels of every kind"
        )
    return (
        f"the source itself scores {task.metric_name} {found:.4f} on {reference.n_scored} labelled texts, no better "
        f"than chance ({reference.chance:.4f}): are these labels the model's?"
    )


def _spread(rows: "Sequence[NDArray[np.float32]]") -> float:
    """Return the largest change of any one component from text to text (from token to token, where it has tokens)."""
    widths = {r.shape[-1:] for r in rows}
    # Start and end scores of a span are as long as their text: no component of one text is also another's.
    width = widths.pop()[0] if len(widths) == 1 and rows[0].ndim else 1
    flat = np.concatenate([np.asarray(r, dtype=np.float64).reshape(-1, width) for r in rows])
    return float((flat.max(axis=0) - flat.min(axis=0)).max()) if flat.size else 0.0
