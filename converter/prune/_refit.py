"""The weights that stay, fitted by least squares with the zeros held: what a choice of zeros costs at best.

Row by row min (w - w*) H (w - w*)' over the weights that stay, all rows at once by conjugate gradients with H's
diagonal as preconditioner (Hestenes and Stiefel 1952): what SparseGPT (arXiv 2301.00774) comes near to in one pass,
where only inputs further on in the row make good what is lost.
"""

import torch

ROUNDS = 60
NEAR = 1e-8
"""Where the squared residual, over what it was, is small enough."""


def refit_kept(start: torch.Tensor, wanted: torch.Tensor, matrix: torch.Tensor, rounds: int = ROUNDS) -> torch.Tensor:
    """Return weights that are zero where `start` `[out, in]` is, nearest to `wanted` in the norm of `matrix`.

    Every round comes nearer. What is left to do is computed in float32, what it starts from in float64.
    """
    stays = (start != 0).float()
    residual = ((wanted.double() - start.double()) @ matrix).float() * stays
    matrix, least = matrix.float(), torch.finfo(torch.float32).tiny
    made, inverse = torch.zeros_like(residual), 1 / matrix.diagonal()
    direction = residual * inverse
    size = (residual * direction).sum(1)
    enough = NEAR * size
    for _ in range(rounds):
        if bool((size <= enough).all()):
            break
        pushed = direction @ matrix * stays
        step = size / (direction * pushed).sum(1).clamp(min=least)
        step = torch.where(size > enough, step, 0.0)
        made += step[:, None] * direction
        residual -= step[:, None] * pushed
        scaled = residual * inverse
        now = (residual * scaled).sum(1)
        direction = scaled + (now / size.clamp(min=least))[:, None] * direction
        size = now
    return start.double() + made


def distance(weight: torch.Tensor, wanted: torch.Tensor, matrix: torch.Tensor) -> float:
    """Return (w - w*) H (w - w*)', summed over rows."""
    off = weight.double() - wanted.double()
    return float((off @ matrix * off).sum())
