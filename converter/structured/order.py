"""In which order the units of a sublayer can best go, and what each number of them costs.

Optimal Brain Surgeon for groups of inputs of a linear layer (Hassibi and Stork 1993; for whole structures ZipLM,
arXiv 2302.04089): removing the inputs S of Y = XW costs tr(W_S' [(H⁻¹)_SS]⁻¹ W_S M) when all others are fitted
anew, H = X'X. M weighs the outputs: the mean of gg', g the gradient of the loss with respect to Y.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 192
"""A sublayer of many units loses several at once, so that there are at most so many rounds."""
COMPACT = 0.8
"""Below this share of units alive, those that are gone are cut out of the matrices."""


@dataclass(frozen=True)
class Removal:
    """Units in the order in which they go, and what is lost when the first of them are gone."""

    order: tuple[int, ...]
    costs: "NDArray[np.float64]"
    """`[units + 1]`, ascending from 0."""

    def kept(self, n_units: int) -> tuple[int, ...]:
        """Return the last `n_units` to go, ascending."""
        return tuple(sorted(self.order[len(self.order) - n_units :]))

    def cost_of(self, n_units: int) -> float:
        """Return what is lost when `n_units` stay."""
        return float(self.costs[len(self.order) - n_units])

    def unit_costs(self) -> "NDArray[np.float64]":
        """Return what each unit's going added, `[units]`."""
        made = np.zeros(len(self.order))
        made[list(self.order)] = np.diff(self.costs)
        return made


def order_removal(matrix: torch.Tensor, weight: torch.Tensor, metric: torch.Tensor, width: int) -> Removal:
    """Return the greedy order of units of `width` inputs each.

    `matrix` is H `[inputs, inputs]`, damped; `weight` the best W `[inputs, outputs]`; `metric` M `[outputs, outputs]`.
    """
    n_units = len(matrix) // width
    if not n_units:
        return Removal((), np.zeros(1))
    state = _Left(torch.linalg.inv(matrix), weight @ _root(metric), width)
    order: list[int] = []
    costs = [0.0]
    at_once = max(1, -(-n_units // ROUNDS))
    while len(order) < n_units:
        gone, lost = state.remove(min(at_once, n_units - len(order)))
        order += gone
        # Within a round there is no order: each of its units bears the same share.
        costs += [costs[-1] + lost * (i + 1) / len(gone) for i in range(len(gone))]
    return Removal(tuple(order), np.maximum.accumulate(np.asarray(costs)))


class _Left:
    """The inverse of H and the weights, of the units that are left (and of some that are gone, until it pays)."""

    def __init__(self, inverse: torch.Tensor, weight: torch.Tensor, width: int) -> None:
        self.inverse, self.weight, self.width = inverse, weight, width
        self.units = torch.arange(len(inverse) // width)
        self.alive = torch.ones(len(self.units), dtype=torch.bool)

    def remove(self, n_gone: int) -> tuple[list[int], float]:
        """Take the `n_gone` units out that cost least; return them and what they cost together."""
        costs = self._costs()
        costs[~self.alive] = np.inf
        gone = torch.topk(costs, n_gone, largest=False).indices
        rows = (gone[:, None] * self.width + torch.arange(self.width)).reshape(-1)
        columns = self.inverse[:, rows]
        block, lost = columns[rows], self.weight[rows]
        solved = torch.linalg.solve(block, torch.cat([lost, columns.T], dim=1))
        total = float((lost * solved[:, : lost.shape[1]]).sum())
        self.weight.addmm_(columns, solved[:, : lost.shape[1]], alpha=-1)
        self.inverse.addmm_(columns, solved[:, lost.shape[1] :], alpha=-1)
        self.alive[gone] = False
        names = self.units[gone].tolist()
        if int(self.alive.sum()) < COMPACT * len(self.alive):
            self._compact()
        return names, max(total, 0.0)

    def _costs(self) -> torch.Tensor:
        """Return what each unit's removal costs alone."""
        if self.width == 1:
            return self.weight.square().sum(1) / self.inverse.diagonal().clamp(min=1e-30)
        w, n = self.width, len(self.units)
        blocks = torch.stack([self.inverse[i * w : (i + 1) * w, i * w : (i + 1) * w] for i in range(n)])
        blocks[~self.alive] = torch.eye(w, dtype=blocks.dtype)
        rows = self.weight.reshape(n, w, -1)
        return (rows * torch.linalg.solve(blocks, rows)).sum((1, 2))

    def _compact(self) -> None:
        inputs = self.alive.repeat_interleave(self.width)
        self.inverse = self.inverse[inputs][:, inputs]
        self.weight = self.weight[inputs]
        self.units, self.alive = self.units[self.alive], self.alive[self.alive]


def _root(metric: torch.Tensor) -> torch.Tensor:
    """Return R with RR' = M."""
    values, vectors = torch.linalg.eigh(metric)
    return vectors * values.clamp(min=0).sqrt()
