"""What the head reads of the last layer: the answer decides what that layer costs."""

from typing import TYPE_CHECKING, Any

import torch

from converter.graphs import BATCH, MODEL, SEQUENCE
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel

LENGTH = 8


def reads_one_token(model: "TorchModel") -> bool:
    """Whether the answers depend on the first token of the last layer alone, so that no other is computed there.

    Found by the gradients of an answer, whatever the head is. Tags, spans and averages depend on all tokens.
    """
    family = family_of(model)
    if family.shares_layers:
        return False  # see `converter.onnx.rewrites.rows`
    zeros: list[torch.Tensor] = []

    def adding_zeros(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    length = min(LENGTH, model.max_length)
    made = model.specs[MODEL].dummy({BATCH: 1, SEQUENCE: length})
    feed = {name: torch.from_numpy(rows) for name, rows in made.items()}
    last = family.layers(model.module)[-1].ffn_output
    handle = last.register_forward_hook(adding_zeros)
    try:
        with torch.enable_grad():
            answers = model.graphs()[MODEL](**feed)
            weights = torch.Generator().manual_seed(0)
            total = sum((v * torch.randn(v.shape, generator=weights)).sum() for v in answers.values())
            (found,) = torch.autograd.grad(total, zeros)
    finally:
        handle.remove()
    read = found[0].abs().sum(-1) > 0
    return bool(read[0]) and not bool(read[1:].any())
