"""ModernBERT: query, key and value fused, gated FFN, and layers of two kinds (local and global attention)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.layer_stack import LayerStack, Slots

if TYPE_CHECKING:
    import torch


class ModernBert(LayerStack):
    model_type = "modernbert"
    norm_first = True

    def stack(self, model: Any) -> "torch.nn.ModuleList":
        return model.base_model.layers

    def slots(self, layer: Any) -> Slots:
        return Slots(
            projections=(layer.attn.Wqkv,),
            attention_output=layer.attn.Wo,
            ffn_input=layer.mlp.Wi,
            ffn_output=layer.mlp.Wo,
            head_dim=layer.attn.head_dim,
            projection_blocks=3,
            ffn_blocks=2,
        )

    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        """Tell nothing of how many there are: that is read from the weights."""
        if not kept:
            from converter.surgery.absent import NoHeads

            layer.attn = NoHeads(layer.attn, output="Wo")

    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Each kept layer stays local or global as it was."""
        model.config.layer_types = [model.config.layer_types[i] for i in kept]

    def fit_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Only the original first layer has no norm before its attention: the embeddings are already normed."""
        import torch

        first: Any = self.stack(model)[0]
        if kept[0] != 0:
            norm = first.mlp_norm
            first.attn_norm = torch.nn.LayerNorm(norm.normalized_shape, eps=norm.eps, bias=norm.bias is not None)
