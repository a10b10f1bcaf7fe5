"""MPNet: all layers share one relative position bias with a column a head."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.layer_stack import LayerStack, Slots

if TYPE_CHECKING:
    import torch


class MPNet(LayerStack):
    """The shared bias keeps all its columns: each layer picks those of the heads it has left."""

    model_type = "mpnet"

    def stack(self, model: Any) -> "torch.nn.ModuleList":
        return model.base_model.encoder.layer

    def slots(self, layer: Any) -> Slots:
        attention = layer.attention.attn
        return Slots(
            projections=(attention.q, attention.k, attention.v),
            attention_output=attention.o,
            ffn_input=layer.intermediate.dense,
            ffn_output=layer.output.dense,
            head_dim=attention.attention_head_size,
        )

    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        from converter.families._mpnet_attention import with_heads
        from converter.surgery.absent import NoHeads

        attention = layer.attention.attn
        layer.attention.attn = with_heads(attention, kept) if kept else NoHeads(attention, output="o")

    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Nothing else counts layers."""
