"""One linear layer pruned and fitted, given what it reads and what it should make."""

from typing import TYPE_CHECKING

import torch

from converter.prune._mask import own_least
from converter.prune._refit import ROUNDS, refit_kept
from converter.prune.threshold import ThresholdPruning, share_at
from converter.structured.least_squares import damping

if TYPE_CHECKING:
    from converter.prune._sequence import Sums

RIDGE = 0.01
"""Of the mean diagonal of X'X, toward the old weights: where the text says nothing, nothing changes."""
ROUNDS_BETWEEN = 10
"""Of fitting, before weights are ranked anew: near enough to rank by."""


def prune_and_fit(linear: torch.nn.Linear, sums: "Sums", stage: ThresholdPruning) -> None:
    """Zero and fit `linear` in place, and use `sums` up: matrices of a wide layer take more memory than its weights.

    Around w* = (X'X + λ)⁻¹ (X'Y + λw), which the dense layer would best be, the error of any other weights v is
    (v - w*) (X'X + λ) (v - w*)': one matrix serves to rank and to fit.
    """
    weight = linear.weight.detach().double()
    matrix, made = sums.xx.div_(sums.tokens), sums.xy.div_(sums.tokens)
    strength = damping(matrix, RIDGE)
    matrix.diagonal().add_(strength)
    wanted = torch.linalg.solve(matrix, made.add_(weight.T, alpha=strength)).T
    linear.weight.copy_(pruned_in_steps(wanted, matrix, stage))


def pruned_in_steps(wanted: torch.Tensor, matrix: torch.Tensor, stage: ThresholdPruning) -> torch.Tensor:
    """Return weights near `wanted` `[out, in]` in the norm of `matrix`, float64, with the stage's share of zeros.

    A weight that is gone stays gone: of those that stay, the fit changes what each is worth, and the next step sees it.
    """
    worth = worth_of_inputs(matrix, stage)
    made = wanted
    for step in range(1, stage.rounds + 1):
        score = (made.abs() * worth).float()
        gone = own_least(score, stage.groups, share_at(stage, step), by_row=stage.scope == "row")
        last = step == stage.rounds
        made = refit_kept(made.masked_fill(gone, 0.0), wanted, matrix, ROUNDS if last else ROUNDS_BETWEEN)
    return made


def worth_of_inputs(matrix: torch.Tensor, stage: ThresholdPruning) -> "torch.Tensor | float":
    """Return what |w| is multiplied with: an output loses so much with w, before or after the others make it good."""
    if stage.score == "magnitude":
        return 1.0
    if stage.score == "wanda":
        return matrix.diagonal().sqrt()
    return torch.linalg.inv(matrix).diagonal().rsqrt()
