"""The output weights of a sublayer, fitted anew by least squares.

What is left of a sublayer takes over what is gone: W' = (X'X + λ)⁻¹ (X'Z + λW), X what the pruned model's kept units
give, Z what the whole model hands on there less the pruned model's own residual, so that the errors of earlier layers
are corrected, too (K-prune, arXiv 2308.03449; ZipLM, 2302.04089). λ pulls toward the old weights, not to zero: where
the text says nothing, nothing changes.
"""

from dataclasses import dataclass, field

import torch

TINY = 1e-12


@dataclass
class Moments:
    """Sums over tokens, in float64, of units X `[tokens, units]` and what the outputs lack, E `[tokens, hidden]`.

    E = Z - XW, with the old weights: X'Z + λW is (X'X + λ)W + X'E, so W' = W + (X'X + λ)⁻¹ X'E, and a sublayer that
    lacks nothing keeps its weights to the last bit.
    """

    n_units: int
    n_outputs: int
    weight: float = 0.0
    xx: torch.Tensor = field(init=False)
    xe: torch.Tensor = field(init=False)
    x: torch.Tensor = field(init=False)
    e: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.xx = torch.zeros(self.n_units, self.n_units, dtype=torch.float64)
        self.xe = torch.zeros(self.n_units, self.n_outputs, dtype=torch.float64)
        self.x = torch.zeros(self.n_units, dtype=torch.float64)
        self.e = torch.zeros(self.n_outputs, dtype=torch.float64)

    def add(self, x: torch.Tensor, e: torch.Tensor, weights: torch.Tensor) -> None:
        """Take in some tokens, each with its weight."""
        if not self.n_units:
            x = x[:, :0]  # a sublayer without units still reads something
        weighed = x * weights[:, None]
        # Within a batch float32 is exact enough; over all of the text it is not.
        self.xx += (weighed.T @ x).double()
        self.xe += (weighed.T @ e).double()
        self.x += weighed.double().sum(0)
        self.e += (e * weights[:, None]).double().sum(0)
        self.weight += float(weights.double().sum())

    def centered(self, *, bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return X'X and X'E a token; with a bias, of the differences to the means: it takes those over."""
        n = max(self.weight, TINY)
        xx, xe = self.xx / n, self.xe / n
        if bias:
            xx -= torch.outer(self.x, self.x) / n**2
            xe -= torch.outer(self.x, self.e) / n**2
        return xx, xe


def damping(xx: torch.Tensor, ridge: float) -> float:
    """Return what is added to the diagonal of X'X: `ridge` times its mean."""
    return ridge * float(xx.diagonal().mean()) + TINY if len(xx) else TINY


def damped(xx: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return X'X with `ridge` times its mean diagonal added."""
    return xx + damping(xx, ridge) * torch.eye(len(xx), dtype=xx.dtype)


def solved(moments: Moments, weight: torch.Tensor, ridge: float, *, bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the damped X'X and the fitted weight `[units, hidden]`, float64; `weight` is the old `[hidden, units]`."""
    xx, xe = moments.centered(bias=bias)
    matrix = damped(xx, ridge)
    return matrix, weight.detach().double().T + torch.linalg.solve(matrix, xe)


def refit(linear: torch.nn.Linear, moments: Moments, ridge: float, *, bias: bool) -> None:
    """Fit weight and bias of `linear` in place."""
    n = max(moments.weight, TINY)
    moved = moments.e / n
    if moments.n_units:
        old = linear.weight.detach().double().T
        _, made = solved(moments, linear.weight, ridge, bias=bias)
        linear.weight.data.copy_(made.T)
        moved -= (moments.x / n) @ (made - old)
    if bias:
        linear.bias.data.add_(moved)
