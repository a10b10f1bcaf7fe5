"""Which weights go, given what each is worth."""

from typing import TYPE_CHECKING

import torch

from converter.prune._magnitude import Scores, zero_smallest, zero_smallest_of_rows

if TYPE_CHECKING:
    from converter.prune._pattern import Pattern


def least(
    scores: Scores, n_matrices: int, pattern: "Pattern", share: float, *, by_row: bool = False
) -> list[torch.Tensor]:
    """Return, for each matrix, True where a weight goes: `share` of all of them together, those of least score.

    N:M takes its share from every group of neighbours.
    """
    if pattern.of:
        return [pattern.least_of_groups(scores(i), round(share * pattern.of)) for i in range(n_matrices)]

    def pooled(i: int) -> torch.Tensor:
        return pattern.pooled(scores(i))

    stays = [torch.ones_like(pooled(i)) for i in range(n_matrices)]
    if by_row:
        for i, grid in enumerate(stays):
            zero_smallest_of_rows(grid, pooled(i), round(share * grid.shape[1]))
    else:
        zero_smallest(stays, pooled, round(share * sum(grid.numel() for grid in stays)))
    return [pattern.spread(grid == 0) for grid in stays]


def own_least(scores: torch.Tensor, pattern: "Pattern", share: float, *, by_row: bool) -> torch.Tensor:
    """Return the same for one matrix by itself."""
    return least(lambda _: scores, 1, pattern, share, by_row=by_row)[0]
