"""DeBERTa-v2 and -v3."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.layer_stack import LayerStack, Slots

if TYPE_CHECKING:
    import torch


class DebertaV2(LayerStack):
    """Disentangled attention: position projections, where they are not the content's own, are cut with the heads."""

    model_type = "deberta-v2"

    def stack(self, model: Any) -> "torch.nn.ModuleList":
        return model.base_model.encoder.layer

    def slots(self, layer: Any) -> Slots:
        attention = layer.attention.self
        positions = [] if attention.share_att_key or not attention.relative_attention else attention.pos_att_type
        by_kind = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
        return Slots(
            projections=(
                attention.query_proj,
                attention.key_proj,
                attention.value_proj,
                *(attention.get_submodule(by_kind[kind]) for kind in positions),
            ),
            attention_output=layer.attention.output.dense,
            ffn_input=layer.intermediate.dense,
            ffn_output=layer.output.dense,
            head_dim=attention.attention_head_size,
            # Shared keys and queries project positions as well.
            readers=(attention.value_proj,) if attention.relative_attention and attention.share_att_key else (),
        )

    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        attention = layer.attention.self
        if not kept:
            from converter.surgery.absent import NoHeads

            layer.attention.self = attention = NoHeads(attention)
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * attention.attention_head_size

    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Nothing else counts layers; the convolution of v2, if there is one, stays after the first."""
