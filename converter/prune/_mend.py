"""What sublayers read, put right: queries, keys, values and neurons as if they were made of the whole model's stream.

Behind a pruned sublayer the stream is another than the weights were trained on. A, the least-squares answer to
X (I + A) + c = T, turns the pruned model's stream X into the whole model's T as far as any linear map can; it is folded
into the weights that read X, so nothing is added to the model. What leaves a sublayer is fitted by `_fit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from converter.prune._fit import TINY, Moments, damped
from converter.prune._streams import Site, sites_of

if TYPE_CHECKING:
    from converter.family import LayerParts


@dataclass(frozen=True)
class Reader:
    """A linear that reads the stream, and what it was before anything was put right."""

    linear: torch.nn.Linear
    weight: torch.Tensor
    bias: torch.Tensor | None


Readers = Mapping[Site, Sequence[Reader]]


def readers_of(parts: "Sequence[LayerParts]") -> Readers:
    """Return what reads the stream in each sublayer that has units, as it is now."""
    made = {}
    for site in sites_of(parts):
        part = parts[site.layer]
        linears = part.readers if site.kind == "attention" else (part.ffn_input,)
        if linears[0].out_features:
            made[site] = [Reader(m, m.weight.detach().double().clone(), _bias_of(m)) for m in linears]
    return made


def mend(readers: Sequence[Reader], moments: Moments, ridge: float) -> None:
    """Let `readers` read, in place, as if the stream were the whole model's.

    `moments` are those of X and E = T - X. It starts from the weights as they were: mending twice is mending once.
    """
    biased = all(r.bias is not None for r in readers)
    xx, xe = moments.centered(bias=biased)
    turn = torch.linalg.solve(damped(xx, ridge), xe)
    shift = (moments.e - moments.x @ turn) / max(moments.weight, TINY)
    for reader in readers:
        reader.linear.weight.data.copy_(reader.weight + reader.weight @ turn.T)
        if biased and reader.bias is not None:
            reader.linear.bias.data.copy_(reader.bias + reader.weight @ shift)


def _bias_of(linear: torch.nn.Linear) -> torch.Tensor | None:
    bias = dict(linear.named_parameters(recurse=False)).get("bias")
    return None if bias is None else bias.detach().double().clone()
