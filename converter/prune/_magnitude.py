"""The smallest of many scores, exactly, without a copy of them all."""

from collections.abc import Callable, Sequence

import torch

Scores = Callable[[int], torch.Tensor]
"""Non-negative float32 scores of the matrix of that number, made anew at each call."""


def zero_smallest(weights: Sequence[torch.Tensor], scores: Scores, n_gone: int) -> None:
    """Set to zero, in place, the `n_gone` entries of all `weights` together whose scores are smallest.

    Exactly so many: of equal scores the first ones go.
    """
    if n_gone <= 0:
        return
    limit, below = _kth_smallest(scores, len(weights), n_gone)
    ties = n_gone - below
    for i, weight in enumerate(weights):
        bits = _bits(scores(i))
        gone = bits < limit
        equal = (bits == limit).flatten().nonzero().flatten()[:ties]
        ties -= len(equal)
        gone.view(-1)[equal] = True
        weight.masked_fill_(gone, 0.0)


def zero_smallest_of_rows(weight: torch.Tensor, scores: torch.Tensor, n_gone: int) -> None:
    """Set to zero, in place, the `n_gone` entries of each row whose scores are smallest."""
    if n_gone > 0:
        weight.scatter_(1, torch.argsort(scores, dim=1, stable=True)[:, :n_gone], 0.0)


def _kth_smallest(scores: Scores, n_matrices: int, k: int) -> tuple[int, int]:
    """Return the bits of the k-th smallest score (from 1), and how many scores are smaller than it.

    Non-negative floats sort as their bits do: one pass counts the upper 16, one the lower 16 of those in question.
    """
    upper = torch.zeros(1 << 15, dtype=torch.int64)
    for i in range(n_matrices):
        upper += torch.bincount((_bits(scores(i)) >> 16).flatten(), minlength=1 << 15)
    high, before = _place(upper, k)
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for i in range(n_matrices):
        bits = _bits(scores(i)).flatten()
        lower += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    low, within = _place(lower, k - before)
    return (high << 16) | low, before + within


def _place(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """Return the bin that the k-th falls into, and how many fall into earlier ones."""
    sums = counts.cumsum(0)
    place = int(torch.searchsorted(sums, k))
    return place, int(sums[place] - counts[place])


def _bits(scores: torch.Tensor) -> torch.Tensor:
    return scores.contiguous().view(torch.int32)
