"""The layer of BERT, shared by RoBERTa, XLM-RoBERTa and ELECTRA."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.family import LayerSteps
from converter.surgery.layer_stack import LayerStack, Slots

if TYPE_CHECKING:
    import torch


class BertLayers(LayerStack):
    """`encoder.layer[i].attention.self.{query,key,value}`, abstract only in its `model_type`."""

    layer_loop = "encoder"

    def stack(self, model: Any) -> "torch.nn.ModuleList":
        return model.base_model.encoder.layer

    def slots(self, layer: Any) -> Slots:
        attention = layer.attention.self
        return Slots(
            projections=(attention.query, attention.key, attention.value),
            attention_output=layer.attention.output.dense,
            ffn_input=layer.intermediate.dense,
            ffn_output=layer.output.dense,
            head_dim=attention.attention_head_size,
        )

    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        attention = layer.attention.self
        if not kept:
            from converter.surgery.absent import NoHeads

            layer.attention.self = attention = NoHeads(attention)
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * attention.attention_head_size

    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Nothing else counts layers."""

    def steps(self, layer: Any) -> LayerSteps:
        attention = layer.attention.self
        return LayerSteps(
            *(attention.query, attention.key, attention.value),
            head_dim=attention.attention_head_size,
            dropout=attention.dropout.p,
            attended=layer.attention.output,
            fed=layer.feed_forward_chunk,
        )
