"""How much the answers depend on what each sublayer puts out: gradients at the outputs, token by token.

One loss a text, as importance takes it: the divergence from answers moved by seeded noise (or the labels' loss). The
mean of gg' then stands for the curvature of the loss in the outputs (Gauss-Newton; K-FAC, arXiv 1503.05671).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from converter.reference import feed_of
from converter.structured.importance import Evidence, moved_answers, sum_of_losses
from converter.structured.streams import Sublayer, linear_of, sublayers_of
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Ticker


@dataclass
class OutputGradients:
    """Gradients of the loss at one sublayer's outputs."""

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


def measure_output_gradients(
    model: "TorchModel", unpruned: "TorchModel", evidence: Evidence, draw: int, ticker: "Ticker"
) -> dict[Sublayer, OutputGradients]:
    """Return the gradients at every sublayer's output; another `draw` is another noise."""
    parts = family_of(model).layers(model.module)
    sublayers = sublayers_of(parts)
    made = {
        s: OutputGradients(torch.zeros(n, n, dtype=torch.float64))
        for s in sublayers
        for n in [linear_of(parts, s).out_features]
    }
    for number, batch in enumerate(evidence.batches):
        rng = torch.Generator().manual_seed((evidence.seed * 1_000_003 + draw) * 100_003 + number)
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(model, [e for _, e in batch]).items()}
        zeros: list[tuple[Sublayer, torch.Tensor]] = []
        with ExitStack() as hooks, torch.enable_grad():
            for sublayer in sublayers:
                hook = _adding_zeros(sublayer, feed["attention_mask"].shape, zeros)
                hooks.callback(linear_of(parts, sublayer).register_forward_hook(hook).remove)
            outputs = model.whole()(**feed)
            loss = sum_of_losses(model, outputs, feed, batch, evidence, moved_answers(unpruned, feed, evidence, rng))
            grads = torch.autograd.grad(loss, [z for _, z in zeros])
        _take(made, [s for s, _ in zeros], grads, feed["attention_mask"].bool(), number)
        ticker.advance()
    return made


def _adding_zeros(
    sublayer: Sublayer, shape: Sequence[int], zeros: list[tuple[Sublayer, torch.Tensor]]
) -> Callable[..., Any]:
    """Add a zero to the output whose gradient is the output's own."""

    def hook(linear: torch.nn.Linear, _: Any, output: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(*shape, linear.out_features, requires_grad=True)
        zeros.append((sublayer, zero))
        return output + zero

    return hook


def _take(
    made: dict[Sublayer, OutputGradients],
    sublayers: Sequence[Sublayer],
    grads: Sequence[torch.Tensor],
    real: torch.Tensor,
    number: int,
) -> None:
    passes = dict.fromkeys(made, 0)
    for sublayer, grad in zip(sublayers, grads, strict=True):
        rows = grad[real]
        made[sublayer].metric += (rows.T @ rows).double()
        made[sublayer].tokens[number, passes[sublayer]] = rows.square().sum(1)
        passes[sublayer] += 1
