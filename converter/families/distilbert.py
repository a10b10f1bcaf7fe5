"""DistilBERT."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.family import LayerSteps
from converter.surgery.layer_stack import LayerStack, Slots

if TYPE_CHECKING:
    import torch


class DistilBert(LayerStack):
    model_type = "distilbert"
    layer_loop = "transformer"

    def stack(self, model: Any) -> "torch.nn.ModuleList":
        return model.base_model.transformer.layer

    def slots(self, layer: Any) -> Slots:
        attention = layer.attention
        return Slots(
            projections=(attention.q_lin, attention.k_lin, attention.v_lin),
            attention_output=attention.out_lin,
            ffn_input=layer.ffn.lin1,
            ffn_output=layer.ffn.lin2,
            head_dim=attention.attention_head_size,
        )

    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        if not kept:
            from converter.surgery.absent import NoHeads

            layer.attention = NoHeads(layer.attention, output="out_lin")
        layer.attention.n_heads = len(kept)
        layer.attention.dim = len(kept) * layer.attention.attention_head_size

    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        model.base_model.transformer.n_layers = len(kept)

    def steps(self, layer: Any) -> LayerSteps:
        attention = layer.attention

        def attended(context: "torch.Tensor", given: "torch.Tensor") -> "torch.Tensor":
            made: torch.Tensor = layer.sa_layer_norm(attention.out_lin(context) + given)
            return made

        def fed(given: "torch.Tensor") -> "torch.Tensor":
            made: torch.Tensor = layer.output_layer_norm(layer.ffn(given) + given)
            return made

        return LayerSteps(
            *(attention.q_lin, attention.k_lin, attention.v_lin),
            head_dim=attention.attention_head_size,
            dropout=attention.dropout.p,
            attended=attended,
            fed=fed,
        )
