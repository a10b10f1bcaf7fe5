"""ALBERT: one layer, run `num_hidden_layers` times."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.family import Family, LayerParts
from converter.surgery.layer_stack import Slots, check_kept, cut_layer, layer_parts

if TYPE_CHECKING:
    from converter.model_folder.shape_map import LayerShape


class Albert(Family):
    """A head or neuron that goes is gone from every pass; a layer that goes is one pass less."""

    model_type = "albert"
    shares_layers = True

    def layers(self, model: Any) -> Sequence[LayerParts]:
        layer = _only_layer(model)
        return [layer_parts(self._slots(layer), layer)]

    def resize_layer(self, model: Any, index: int, keep: "LayerShape") -> None:
        check_kept([index], 1)
        layer = _only_layer(model)
        cut_layer(self._slots(layer), keep)
        if not keep.heads:
            from converter.surgery.absent import NoHeads

            layer.attention = NoHeads(layer.attention, output="dense", norm="LayerNorm")
        layer.attention.num_attention_heads = len(keep.heads)
        layer.attention.all_head_size = len(keep.heads) * layer.attention.attention_head_size

    def keep_layers(self, model: Any, kept: Sequence[int]) -> None:
        _only_layer(model)
        model.config.num_hidden_layers = len(check_kept(kept, model.config.num_hidden_layers))

    def _slots(self, layer: Any) -> Slots:
        attention = layer.attention
        return Slots(
            projections=(attention.query, attention.key, attention.value),
            attention_output=attention.dense,
            ffn_input=layer.ffn,
            ffn_output=layer.ffn_output,
            head_dim=attention.attention_head_size,
        )


def _only_layer(model: Any) -> Any:
    groups = model.base_model.encoder.albert_layer_groups
    if len(groups) != 1 or len(groups[0].albert_layers) != 1:
        raise SourceError(
            f"an ALBERT with {len(groups)} groups of {len(groups[0].albert_layers)} layers cannot be pruned",
            hint="ALBERT with one shared layer can; this model can still be exported and quantized",
        )
    return groups[0].albert_layers[0]
