"""GPT-2: query, key and value in one `Conv1D`, whose weight is the other way round."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import StageFailed
from converter.surgery.writer_stack import AttentionSlots, StackName, WriterSlots, WriterStacks

if TYPE_CHECKING:
    import torch


class Gpt2(WriterStacks):
    model_type = "gpt2"

    def lists(self, model: Any) -> "Mapping[StackName, torch.nn.ModuleList]":
        return {"decoder": model.base_model.h}

    def slots(self, layer: Any) -> WriterSlots:
        own = layer.attn
        return WriterSlots(
            AttentionSlots(own, own.c_attn, (), own.c_proj, head_dim=own.head_dim), (layer.mlp.c_fc,), layer.mlp.c_proj
        )

    def note_heads(self, attention: Any, n_groups: int) -> None:
        attention.num_heads = n_groups
        attention.split_size = n_groups * attention.head_dim

    def note_layers(self, model: Any, stack: StackName, kept: Sequence[int]) -> None:
        if model.config.scale_attn_by_inverse_layer_idx and list(kept) != list(range(len(kept))):
            raise StageFailed(
                "the scores of its layers are divided by their number: only the last layers can be dropped",
                hint="name the first ones with indices",
            )
        model.config.num_hidden_layers = len(kept)
