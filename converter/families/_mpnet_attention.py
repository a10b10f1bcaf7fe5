"""MPNet's attention with some of its heads."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


class SomeHeads(torch.nn.Module):
    """Attention over some heads: picks their columns of the position bias that all layers share.

    Holds the linears of an `MPNetSelfAttention` under the same names, so weights save and load alike.
    """

    heads: torch.Tensor

    def __init__(self, attention: Any, heads: Sequence[int]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = attention.q, attention.k, attention.v, attention.o
        self.dropout = attention.dropout
        self.attention_head_size = attention.attention_head_size
        self.num_attention_heads = len(heads)
        self.all_head_size = len(heads) * self.attention_head_size
        device = attention.q.weight.device
        self.register_buffer("heads", torch.as_tensor(list(heads), device=device), persistent=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        output_attentions: bool = False,  # noqa: FBT001, FBT002 - the caller's signature
        **kwargs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Return what `MPNetSelfAttention.forward` returns; `position_bias` is `[batch, all heads, query, key]`."""
        bias = None if position_bias is None else position_bias.index_select(1, self.heads)
        return MPNetSelfAttention.forward(
            self, hidden_states, attention_mask, bias, output_attentions=output_attentions, **kwargs
        )


def with_heads(attention: Any, kept: Sequence[int]) -> SomeHeads:
    """Return `attention`, already cut, with the heads `kept` of those it had before."""
    before = attention.heads.tolist() if isinstance(attention, SomeHeads) else range(attention.num_attention_heads)
    return SomeHeads(attention, [before[i] for i in kept])
