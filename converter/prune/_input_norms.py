"""The size of what flows into each linear layer, on real text."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from converter.artifact import TorchModel
from converter.examples import Encoding
from converter.graphs import MODEL
from converter.reference import feed_of

if TYPE_CHECKING:
    from converter.stage import Ticker


def measure_input_norms(
    model: TorchModel, linears: Sequence[torch.nn.Linear], batches: Sequence[Sequence[Encoding]], ticker: "Ticker"
) -> list[torch.Tensor]:
    """Return, for each linear, the root mean square of each input over all tokens, padding excluded, `[inputs]`."""
    sums = [torch.zeros(linear.in_features, dtype=torch.float64) for linear in linears]
    counts = [0] * len(linears)
    for batch in batches:
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(model, batch).items()}
        real = feed["attention_mask"].bool()

        def watch(number: int, real: torch.Tensor = real) -> Callable[..., None]:
            def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
                given = args[0].detach()
                # A pooler or a position table sees no tokens: all of its rows count.
                rows = given[real] if given.shape[:2] == real.shape else given.reshape(-1, given.shape[-1])
                sums[number] += rows.double().square().sum(0)
                counts[number] += len(rows)

            return hook

        with ExitStack() as hooks, torch.inference_mode():
            for number, linear in enumerate(linears):
                hooks.callback(linear.register_forward_pre_hook(watch(number)).remove)
            model.graphs()[MODEL](**feed)
        ticker.advance()
    return [(s / max(n, 1)).sqrt().float().clamp(min=math.ulp(0.0)) for s, n in zip(sums, counts, strict=True)]
