"""What families have in common that write text: one stack of layers or two, heads in groups that share keys and values.

Every layer keeps a head of each attention: its keys and values are tensors of the cache, and one without heads would be
a tensor that no runtime takes.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from converter.errors import StageFailed
from converter.family import CrossParts, Family, LayerParts, Stack
from converter.surgery.cut import inputs_of, keep_columns, keep_rows, unit_rows
from converter.surgery.layer_stack import check_kept, check_units

if TYPE_CHECKING:
    import torch

    from converter.model_folder.shape_map import LayerShape

StackName = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class AttentionSlots:
    """The linears of one attention that shrink together."""

    module: "torch.nn.Module"
    query: "torch.nn.Module"
    """Query heads side by side; all three projections, one after the other, where they are fused."""
    keys_values: "tuple[torch.nn.Module, ...]"
    output: "torch.nn.Module"
    head_dim: int
    queries_a_group: int = 1
    """Query heads that share a key head and a value head."""

    @property
    def width(self) -> int:
        """Columns of the output's input that one group has."""
        return self.head_dim * self.queries_a_group

    @property
    def n_groups(self) -> int:
        return inputs_of(self.output) // self.width

    @property
    def projections(self) -> "tuple[torch.nn.Module, ...]":
        return (self.query, *self.keys_values)

    def cut(self, kept: Sequence[int]) -> None:
        """Keep these groups, indices into those that there are now.

        Raises:
            StageFailed: none would be left, or they are unsorted or not there.

        """
        check_units("heads", kept, self.n_groups)
        if not kept:
            raise StageFailed("a layer of a model that writes text keeps one head at least", hint="remove less")
        n_groups = self.n_groups
        keep_rows(self.query, unit_rows(kept, self.width, n_groups, 1 if self.keys_values else 3))
        for linear in self.keys_values:
            keep_rows(linear, unit_rows(kept, self.head_dim, n_groups))
        keep_columns(self.output, unit_rows(kept, self.width, n_groups))


@dataclass(frozen=True)
class WriterSlots:
    """What shrinks of one layer."""

    attention: AttentionSlots
    ffn_inputs: "tuple[torch.nn.Module, ...]"
    """The linears that neurons are the outputs of: two where the FFN is gated."""
    ffn_output: "torch.nn.Module"
    cross: AttentionSlots | None = None


class WriterStacks(Family):
    """Layers in one `ModuleList` a stack."""

    writes = True

    @abstractmethod
    def lists(self, model: Any) -> "Mapping[StackName, torch.nn.ModuleList]":
        """Return the lists of layers, by stack, the encoder's first."""

    @abstractmethod
    def slots(self, layer: Any) -> WriterSlots:
        """Return the linears of one layer."""

    @abstractmethod
    def note_heads(self, attention: Any, n_groups: int) -> None:
        """Tell an attention module how many heads (or groups) it has now."""

    @abstractmethod
    def note_layers(self, model: Any, stack: StackName, kept: Sequence[int]) -> None:
        """Tell modules and configuration which layers (as they were before) are left of a stack."""

    def stacks(self, model: "torch.nn.Module") -> Sequence[Stack]:
        return [Stack(name, len(layers)) for name, layers in self.lists(model).items()]

    def layers(self, model: "torch.nn.Module") -> Sequence[LayerParts]:
        return [self._parts(layer) for layers in self.lists(model).values() for layer in layers]

    def _parts(self, layer: Any) -> LayerParts:
        slots = self.slots(layer)
        own, cross = slots.attention, slots.cross
        return LayerParts(
            attention_output=own.output,  # type: ignore[arg-type]  # Conv1D of GPT-2 is one too
            ffn_output=slots.ffn_output,  # type: ignore[arg-type]
            n_heads=own.n_groups,
            head_dim=own.width,
            n_neurons=inputs_of(slots.ffn_output),
            ffn_input=slots.ffn_inputs[0],  # type: ignore[arg-type]
            layer=layer,
            projections=own.projections,  # type: ignore[arg-type]
            readers=own.projections,  # type: ignore[arg-type]
            ffn_inputs=slots.ffn_inputs,
            cross=None if cross is None else CrossParts(cross.output, cross.n_groups, cross.width, cross.projections),
        )

    def resize_layer(self, model: "torch.nn.Module", index: int, keep: "LayerShape") -> None:
        slots = self.slots([layer for layers in self.lists(model).values() for layer in layers][index])
        n_neurons = inputs_of(slots.ffn_output)
        check_units("neurons", keep.neurons, n_neurons)
        if not keep.neurons:
            raise StageFailed("a layer of a model that writes text keeps one neuron at least", hint="remove less")
        attentions = [(slots.attention, keep.heads)] + ([(slots.cross, keep.cross)] if slots.cross else [])
        if keep.cross and slots.cross is None:
            raise StageFailed("heads of an attention to an encoder are named, and the layer has none")
        for attention, kept in attentions:
            if len(kept) < attention.n_groups or not kept:
                self._refuse_fixed()
                attention.cut(kept)
                self.note_heads(attention.module, len(kept))
        for linear in slots.ffn_inputs:
            keep_rows(linear, keep.neurons)
        keep_columns(slots.ffn_output, keep.neurons)

    def _refuse_fixed(self) -> None:
        if self.fixed_heads:
            raise StageFailed(f"heads of {self.model_type} cannot be removed: {self.fixed_heads}")

    def keep_layers(self, model: "torch.nn.Module", kept: Sequence[int]) -> None:
        lists = self.lists(model)
        check_kept(kept, sum(map(len, lists.values())))
        begin = 0
        for name, layers in lists.items():
            own = [i - begin for i in kept if begin <= i < begin + len(layers)]
            begin += len(layers)
            if not own:
                raise StageFailed(f"no layers of the {name} would be left", hint="remove less")
            wanted = [layers[i] for i in own]
            del layers[len(wanted) :]
            for i, layer in enumerate(wanted):
                layers[i] = layer
                _number(layer, i)
            self.note_layers(model, name, own)


def _number(layer: "torch.nn.Module", index: int) -> None:
    """Tell the attentions of a layer which one it is: that is where their keys and values lie in the cache."""
    for part in layer.modules():
        if getattr(part, "layer_idx", None) is not None:
            part.layer_idx = index  # type: ignore[assignment]
