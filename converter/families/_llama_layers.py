"""The layers of Llama, shared by Mistral, Qwen and Gemma: query heads in groups that share keys, and a gated FFN."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.writer_stack import AttentionSlots, StackName, WriterSlots, WriterStacks

if TYPE_CHECKING:
    import torch


class LlamaLayers(WriterStacks):
    """`layers[i].self_attn.{q,k,v,o}_proj` and `mlp.{gate,up,down}_proj`, abstract only in its `model_type`."""

    def lists(self, model: Any) -> "Mapping[StackName, torch.nn.ModuleList]":
        return {"decoder": model.base_model.layers}

    def slots(self, layer: Any) -> WriterSlots:
        own, ffn = layer.self_attn, layer.mlp
        return WriterSlots(
            AttentionSlots(
                own,
                own.q_proj,
                (own.k_proj, own.v_proj),
                own.o_proj,
                head_dim=own.head_dim,
                queries_a_group=own.num_key_value_groups,
            ),
            (ffn.gate_proj, ffn.up_proj),
            ffn.down_proj,
        )

    def note_heads(self, attention: Any, n_groups: int) -> None:
        """Nothing counts heads: they are as many as there are rows, and a group has the queries that it had."""

    def note_layers(self, model: Any, stack: StackName, kept: Sequence[int]) -> None:
        config = model.config
        kinds = getattr(config, "layer_types", None)
        if kinds:
            config.layer_types = [kinds[i] for i in kept]
        config.num_hidden_layers = len(kept)
