"""Relations between tokens: what attention is made of, whatever heads are left (MiniLM, MiniLMv2).

Queries, keys and values of one layer are each split anew into relation heads, and the softmax of their scaled products
with themselves is learned (arXiv 2002.10957, 2012.15828). A relation is `[tokens, tokens]` whatever the width that it
is made of, so students with fewer heads, and others in every layer, learn alike. Of a decoder behind an encoder the
relations are those of its attention to the text: queries of the answer with keys of the text, values with themselves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F

from converter.errors import UsageError
from converter.surgery.resize import family_of

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.family import CrossParts, LayerParts

MOST_HEADS = 48
"""Relation heads: MiniLMv2 found no gain in more."""
SHUT_OUT = -1e4
"""Finite: -inf minus -inf would be NaN inside the divergence."""


@dataclass(frozen=True)
class RelationPlan:
    """Whose relations are learned."""

    student_layer: int
    teacher_layer: int
    n_heads: int
    """Relation heads."""
    cross: bool = False
    """They are those of a decoder's attention to its encoder."""


def plan_relations(
    student: "TorchModel", teacher: "TorchModel", mapped: Sequence[int], wanted: int | None
) -> RelationPlan:
    """Return the student's last layer that has heads, the teacher's layer that it stands for, and the split.

    Of an encoder-decoder, heads are those of the attention to the text.

    The last, since what comes before is what it reads: MiniLM learns no other. Relation heads are as many as `wanted`
    (None: as the student's layer has heads), or the next number below that splits both widths evenly.

    Raises:
        SourceError: the place of queries, keys and values is not known for this architecture.
        UsageError: the teacher has no heads where the student has.

    """
    cross = student.task.kind == "encoder-decoder"
    own, known = (_attentions(model, cross=cross) for model in (student, teacher))
    layer = max(i for i, part in enumerate(own) if part is not None and part.n_heads)
    part, other = own[layer], known[mapped[layer]]
    assert part is not None, "it has heads"
    if other is None or not other.n_heads:
        raise UsageError(
            f"the teacher has no heads in layer {mapped[layer]}, from which layer {layer} would learn relations",
            hint="give `layers` another map, or relation_weight=0",
        )
    common = math.gcd(part.n_heads * part.head_dim, other.n_heads * other.head_dim)
    most = min(MOST_HEADS, wanted or part.n_heads)
    return RelationPlan(layer, mapped[layer], max(n for n in range(1, most + 1) if common % n == 0), cross)


def _attentions(model: "TorchModel", *, cross: bool) -> "Sequence[LayerParts | CrossParts | None]":
    """Return the attention of every layer that is run to its own tokens, or to what an encoder read."""
    parts = _parts_by_layer(model)
    return [part.cross for part in parts] if cross else parts


def _parts_by_layer(model: "TorchModel") -> "list[LayerParts]":
    """Return the parts of every layer that is run: shared layers stand there once for each pass."""
    family = family_of(model)
    parts = list(family.layers(model.module))
    return parts * int(model.config.num_hidden_layers) if family.shares_layers else parts


class RelationTap:
    """Queries, keys and values as one layer's projections put them out; hooks are there during one forward only."""

    def __init__(self, model: "TorchModel", layer: int, *, cross: bool = False) -> None:
        part = _attentions(model, cross=cross)[layer]
        assert part is not None, "relations are planned for layers that have them"
        self._linears = part.projections[:3]
        # A shared layer is called once a pass. DeBERTa projects positions by the same linears, after the tokens.
        self._call = layer if family_of(model).shares_layers else 0
        self._calls: list[list[torch.Tensor]] = []

    def __enter__(self) -> Self:
        self._calls = [[] for _ in self._linears]
        self._hooks = [
            linear.register_forward_hook(_noting(calls))
            for linear, calls in zip(self._linears, self._calls, strict=True)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def taken(self) -> tuple[torch.Tensor, ...]:
        """Return the three of the last forward, `[batch, length, width]` each."""
        found = [calls[self._call] for calls in self._calls]
        self._calls = []
        return tuple(found) if len(found) > 1 else tuple(torch.chunk(found[0], 3, dim=-1))


def _noting(calls: list[torch.Tensor]) -> Callable[..., None]:
    def hook(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        calls.append(output)

    return hook


def relation_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], attention_mask: torch.Tensor, n_heads: int
) -> torch.Tensor:
    """Return KL of the relations `softmax(x x' / sqrt(d))`, mean over the text's own tokens, heads and the three."""
    real = attention_mask.bool()
    parts = []
    for found, wanted in zip(student, teacher, strict=True):
        rows = F.kl_div(
            _relation(found, real, n_heads), _relation(wanted, real, n_heads), log_target=True, reduction="none"
        ).sum(-1)
        parts.append(rows.transpose(1, 2)[real].mean())
    return torch.stack(parts).mean()


def cross_relation_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    steps: torch.Tensor,
    n_heads: int,
) -> torch.Tensor:
    """Return KL of how an answer's `steps` look at the text, and of the text's values (MiniLM's two losses), its mean.

    Query `[batch, steps, width]`, key and value `[batch, length, width]`; `attention_mask` is that of the text.
    """
    text, answer = attention_mask.bool(), steps.bool()
    query, key, value = range(3)
    parts = []
    for asking, asked, real in ((query, key, answer), (value, value, text)):
        found, wanted = (_relation(s[asking], text, n_heads, s[asked]) for s in (student, teacher))
        rows = F.kl_div(found, wanted, log_target=True, reduction="none").sum(-1)
        parts.append(rows.transpose(1, 2)[real].mean())
    return torch.stack(parts).mean()


def _relation(
    states: torch.Tensor, real: torch.Tensor, n_heads: int, others: torch.Tensor | None = None
) -> torch.Tensor:
    """Return log relations `[batch, heads, tokens, tokens]` to `others` (itself); padding is looked at by nobody."""
    asking, asked = (_split(s, n_heads) for s in (states, states if others is None else others))
    products = asking @ asked.transpose(-1, -2) / math.sqrt(asking.shape[-1])
    return products.masked_fill(~real[:, None, None, :], SHUT_OUT).log_softmax(-1)


def _split(states: torch.Tensor, n_heads: int) -> torch.Tensor:
    batch, length, width = states.shape
    return states.view(batch, length, n_heads, width // n_heads).transpose(1, 2)
