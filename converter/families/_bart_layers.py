"""The layers of BART, shared by Marian, mBART and M2M100: an encoder, and a decoder that attends to it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.surgery.writer_stack import AttentionSlots, StackName, WriterSlots, WriterStacks

if TYPE_CHECKING:
    import torch


class BartLayers(WriterStacks):
    """`{encoder,decoder}.layers[i].self_attn.{q,k,v,out}_proj`, abstract only in its `model_type`."""

    def lists(self, model: Any) -> "Mapping[StackName, torch.nn.ModuleList]":
        base = model.base_model
        names: tuple[StackName, ...] = ("encoder", "decoder")  # BART that continues text has no encoder
        return {name: getattr(base, name).layers for name in names if hasattr(base, name)}

    def slots(self, layer: Any) -> WriterSlots:
        cross = getattr(layer, "encoder_attn", None)
        return WriterSlots(
            _attention(layer.self_attn), (layer.fc1,), layer.fc2, None if cross is None else _attention(cross)
        )

    def note_heads(self, attention: Any, n_groups: int) -> None:
        attention.num_heads = n_groups

    def note_layers(self, model: Any, stack: StackName, kept: Sequence[int]) -> None:
        setattr(model.config, f"{stack}_layers", len(kept))


def _attention(module: Any) -> AttentionSlots:
    return AttentionSlots(
        module, module.q_proj, (module.k_proj, module.v_proj), module.out_proj, head_dim=module.head_dim
    )
