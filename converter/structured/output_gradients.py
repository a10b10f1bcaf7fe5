"""How much the answers depend on what each sublayer puts out: gradients at the outputs, token by token.

One loss a text, as importance takes it: the divergence from answers moved by seeded noise (or the labels' loss). The
mean of gg' then stands for the curvature of the loss in the outputs (Gauss-Newton; K-FAC, arXiv 1503.05671).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from converter.graphs import MODEL
from converter.reference import feed_of
from converter.structured.importance import Evidence, moved_answers, sum_of_losses
from converter.structured.streams import Site, linear_of, sites_of
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Ticker


@dataclass
class Pull:
    """What one sublayer's outputs mean to the loss."""

    metric: torch.Tensor
    """Sum of gg' over tokens, `[hidden, hidden]`, float64."""
    tokens: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """By batch and pass: |g|² of each token, `[tokens]`."""

    @property
    def mass(self) -> float:
        return float(self.metric.trace())

    def weights(self, number: int, i: int, evenly: float) -> torch.Tensor:
        """Return the weight of each token, 1 on average over all text; `evenly` (0..1) of it does not look at g."""
        own = self.tokens[number, i]
        count = sum(len(t) for t in self.tokens.values())
        return evenly + (1 - evenly) * own * (count / max(self.mass, 1e-30))

    def shape(self, evenly: float) -> torch.Tensor:
        """Return the metric of the outputs with a trace of 1, `evenly` (0..1) of it the same in all directions."""
        n = len(self.metric)
        return (1 - evenly) * self.metric / max(self.mass, 1e-30) + evenly * torch.eye(n, dtype=torch.float64) / n


def measure_pull(
    model: "TorchModel", unpruned: "TorchModel", evidence: Evidence, draw: int, ticker: "Ticker"
) -> dict[Site, Pull]:
    """Return the pull of every sublayer of `model`; another `draw` is another noise."""
    parts = family_of(model).layers(model.module)
    sites = sites_of(parts)
    made = {s: Pull(torch.zeros(n, n, dtype=torch.float64)) for s in sites for n in [linear_of(parts, s).out_features]}
    for number, batch in enumerate(evidence.batches):
        rng = torch.Generator().manual_seed((evidence.seed * 1_000_003 + draw) * 100_003 + number)
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(model, [e for _, e in batch]).items()}
        zeros: list[tuple[Site, torch.Tensor]] = []
        with ExitStack() as hooks, torch.enable_grad():
            for site in sites:
                hook = _adding_zeros(site, feed["attention_mask"].shape, zeros)
                hooks.callback(linear_of(parts, site).register_forward_hook(hook).remove)
            outputs = model.graphs()[MODEL](**feed)
            loss = sum_of_losses(model, outputs, feed, batch, evidence, moved_answers(unpruned, feed, evidence, rng))
            grads = torch.autograd.grad(loss, [z for _, z in zeros])
        _take(made, [s for s, _ in zeros], grads, feed["attention_mask"].bool(), number)
        ticker.advance()
    return made


def _adding_zeros(site: Site, shape: Sequence[int], zeros: list[tuple[Site, torch.Tensor]]) -> Callable[..., Any]:
    """Add a zero to the output whose gradient is the output's own."""

    def hook(linear: torch.nn.Linear, _: Any, output: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(*shape, linear.out_features, requires_grad=True)
        zeros.append((site, zero))
        return output + zero

    return hook


def _take(
    made: dict[Site, Pull], sites: Sequence[Site], grads: Sequence[torch.Tensor], real: torch.Tensor, number: int
) -> None:
    passes = dict.fromkeys(made, 0)
    for site, grad in zip(sites, grads, strict=True):
        rows = grad[real]
        made[site].metric += (rows.T @ rows).double()
        made[site].tokens[number, passes[site]] = rows.square().sum(1)
        passes[site] += 1
