"""The layers of T5 and mT5, whose first layer of each stack has the table of relative positions for all of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.writer_stack import AttentionSlots, StackName, WriterSlots, WriterStacks

if TYPE_CHECKING:
    import torch


class T5Layers(WriterStacks):
    """`{encoder,decoder}.block[i].layer`, abstract only in its `model_type`."""

    fixed_heads = "all layers add the biases of one table of relative positions, a column a head"

    def lists(self, model: Any) -> "Mapping[StackName, torch.nn.ModuleList]":
        return {"encoder": model.encoder.block, "decoder": model.decoder.block}

    def slots(self, layer: Any) -> WriterSlots:
        ffn = layer.layer[-1].DenseReluDense
        inputs = (ffn.wi_0, ffn.wi_1) if hasattr(ffn, "wi_0") else (ffn.wi,)
        cross = layer.layer[1].EncDecAttention if hasattr(layer.layer[1], "EncDecAttention") else None
        own = _attention(layer.layer[0].SelfAttention)
        return WriterSlots(own, inputs, ffn.wo, None if cross is None else _attention(cross))

    def note_heads(self, attention: Any, n_groups: int) -> None:
        raise NotImplementedError(self.fixed_heads)

    def keep_layers(self, model: "torch.nn.Module", kept: Sequence[int]) -> None:
        tables = {name: _positions(layers[0]) for name, layers in self.lists(model).items()}
        super().keep_layers(model, kept)
        for name, layers in self.lists(model).items():
            first: Any = layers[0]
            own = first.layer[0].SelfAttention
            own.has_relative_attention_bias, own.relative_attention_bias = True, tables[name]

    def note_layers(self, model: Any, stack: StackName, kept: Sequence[int]) -> None:
        module = model.encoder if stack == "encoder" else model.decoder
        module.config.num_layers = len(kept)
        if stack == "encoder":
            model.config.num_layers = len(kept)
        else:
            model.config.num_decoder_layers = module.config.num_decoder_layers = len(kept)


def _positions(layer: Any) -> "torch.nn.Module":
    table: torch.nn.Module = layer.layer[0].SelfAttention.relative_attention_bias
    return table


def _attention(module: Any) -> AttentionSlots:
    return AttentionSlots(module, module.q, (module.k, module.v), module.o, head_dim=module.key_value_proj_dim)
