"""Which widths, so that what they cost stays within a budget and what they lose is least.

Dynamic programming over sublayers, exact on a grid of costs (ZipLM, arXiv 2302.04089).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 4000
"""Of the grid that costs are rounded up to: a plan never exceeds the budget, and is off by 0.4 % at most."""


@dataclass(frozen=True)
class Choice:
    """One width that a sublayer may have: what it takes of the budget, and what is lost."""

    width: int
    cost: float
    loss: float


def choose_widths(choices: Sequence[Sequence[Choice]], budget: float) -> list[int] | None:
    """Return, for each sublayer, which choice: the least loss within `budget`. None: even the least is too much."""
    if sum(min(c.cost for c in row) for row in choices) > budget or budget <= 0:
        return None
    step = budget / STEPS
    best = np.zeros(STEPS + 1)
    taken: list[np.ndarray] = []
    for row in choices:
        made = np.full(STEPS + 1, np.inf)
        which = np.zeros(STEPS + 1, dtype=np.int16)
        for i, choice in enumerate(row):
            cells = int(np.ceil(choice.cost / step - 1e-9))
            if cells > STEPS:
                continue
            loss = np.full(STEPS + 1, np.inf)
            loss[cells:] = best[: STEPS + 1 - cells] + choice.loss
            better = loss < made
            made[better], which[better] = loss[better], i
        best = made
        taken.append(which)
    if not np.isfinite(best[-1]):
        # Rounding up has pushed the least over the edge: the least it is.
        return [min(range(len(row)), key=lambda i: row[i].cost) for row in choices]
    picks: list[int] = []
    room = STEPS
    for row, which in zip(reversed(choices), reversed(taken), strict=True):
        pick = int(which[room])
        picks.append(pick)
        room -= int(np.ceil(row[pick].cost / step - 1e-9))
    return picks[::-1]
