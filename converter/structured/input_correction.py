"""What sublayers and the head read, put right: as if they read the whole model's stream.

Behind a pruned sublayer the stream is another than the weights were trained on. A, the least-squares answer to
X (I + A) + c = T, turns the pruned model's stream X into the whole model's T as far as any linear map can; it is folded
into the weights that read X, so nothing is added to the model. What leaves a sublayer is fitted by `_fit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from converter.structured.least_squares import TINY, Moments, damped
from converter.structured.streams import Stream, Sublayer, head_of, sublayers_of


@dataclass(frozen=True)
class Reader:
    """A linear that reads the stream, and what it was before anything was put right."""

    linear: torch.nn.Linear
    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Readers:
    """All that read the stream."""

    of_sublayers: Mapping[Sublayer, Sequence[Reader]]
    """Of each sublayer that has units."""
    head: Reader | None


def readers_of(stream: Stream) -> Readers:
    """Return what reads the stream of a model, as it is now."""
    made = {}
    for sublayer in sublayers_of(stream.parts):
        part = stream.parts[sublayer.layer]
        linears = part.readers if sublayer.kind == "attention" else (part.ffn_input,)
        if linears[0].out_features:
            made[sublayer] = [_reader(m) for m in linears]
    head = head_of(stream)
    return Readers(made, None if head is None else _reader(head))


def correct_inputs(readers: Sequence[Reader], moments: Moments, ridge: float) -> None:
    """Let `readers` read, in place, as if the stream were the whole model's.

    `moments` are those of X and E = T - X. It starts from the weights as they were, so a second call changes nothing.
    """
    biased = all(r.bias is not None for r in readers)
    xx, xe = moments.centered(bias=biased)
    turn = torch.linalg.solve(damped(xx, ridge), xe)
    shift = (moments.e - moments.x @ turn) / max(moments.weight, TINY)
    for reader in readers:
        reader.linear.weight.data.copy_(reader.weight + reader.weight @ turn.T)
        if biased and reader.bias is not None:
            reader.linear.bias.data.copy_(reader.bias + reader.weight @ shift)


def _reader(linear: torch.nn.Linear) -> Reader:
    bias = dict(linear.named_parameters(recurse=False)).get("bias")
    own = None if bias is None else bias.detach().double().clone()
    return Reader(linear, linear.weight.detach().double().clone(), own)
