"""How much of a winner's lead is luck: the best of many looks at the same texts looks better than it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.search.figures import Figures

RESAMPLES = 400
Z = 1.645
"""One-sided, 95 %."""
FASTER = 0.02
"""Less than this share of the time, or of the bytes, is no gain: timing is not that exact."""
BETTER = 0.03
"""A model whose metric is higher by so much on text that it may have learned from than on other text knows it."""
SURE = 3.0
"""Standard errors of a difference that is not chance."""


@dataclass(frozen=True)
class Gain:
    """What the winner is better by than the best recipe that the search started from."""

    over: str
    """The name of that start."""
    by: str
    """`loss`, `milliseconds` or `megabytes`: what the goal minimizes first."""
    value: float
    """Of the loss: its difference, less the optimism; of time and size: the share that is saved."""
    low: float
    """At least this, with 95 % confidence."""
    sure: bool
    text: str
    """What it was measured on: `tuning text`, or `--eval`."""

    def table(self) -> dict[str, Any]:
        return dict(vars(self))


def expected_optimism(candidates: Sequence[Figures], seed: int = 0) -> float:
    """Return by how much the least loss of several candidates is expected to be too small, because it is the least.

    By the bootstrap: the winner is chosen again on texts drawn with replacement, and judged on those that were not
    drawn (Tsamardinos et al., Machine Learning 107, 2018). 0 for one candidate, and where losses are not known by text.
    """
    rows = [c.losses for c in candidates if len(c.losses) > 1]
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        return 0.0
    losses = np.asarray(rows)
    rng, n = np.random.default_rng(seed), losses.shape[1]
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, n, n)
        left = np.setdiff1d(np.arange(n), drawn)
        if not len(left):
            continue
        means = losses[:, drawn].mean(axis=1)
        winner = int(np.argmin(means))
        found.append(float(losses[winner, left].mean() - means[winner]))
    return max(0.0, float(np.mean(found))) if found else 0.0


def gain_of(
    winner: Figures, start: Figures, over: str, by: str, optimism: float = 0.0, text: str = "tuning text"
) -> Gain:
    """Return the gain of a winner over a start, in what the goal minimizes first.

    `optimism` is taken off a gain in loss; on text that nothing was chosen by, it is 0.
    """
    if by != "loss":
        saved = 1 - float(getattr(winner, by)) / float(getattr(start, by))
        return Gain(over, by, saved, saved - FASTER, saved > FASTER, text)
    fewer = np.asarray(start.losses) - np.asarray(winner.losses) if len(start.losses) == len(winner.losses) else None
    if fewer is None or len(fewer) < 2:
        value = start.loss - winner.loss - optimism
        return Gain(over, by, value, float("-inf"), sure=False, text=text)
    value = float(fewer.mean()) - optimism
    low = value - Z * float(fewer.std(ddof=1)) / float(np.sqrt(len(fewer)))
    return Gain(over, by, value, low, low > 0, text)


def knows_its_text(tuning: float | None, evaluated: float | None, n_tuning: int, n_eval: int | None) -> bool:
    """Tell whether the source's metric on the tuning text is far above that on `--eval`: it was taught on that text.

    A model answers what it was taught on with a certainty that it does not have elsewhere: pruning costs more there.
    """
    if tuning is None or evaluated is None or not n_tuning or not n_eval:
        return False
    # No metric between 0 and 1 varies more than a share of one half.
    error = math.sqrt(0.25 / n_tuning + 0.25 / n_eval)
    return tuning - evaluated > max(BETTER, SURE * error)
