"""What families have in common whose layers stand in one list, heads side by side in each projection."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.errors import StageFailed
from converter.family import Family, LayerParts
from converter.surgery.cut import keep_columns, keep_rows, unit_rows

if TYPE_CHECKING:
    import torch

    from converter.model_folder.shape_map import LayerShape


@dataclass(frozen=True)
class Slots:
    """The linears of one layer that shrink when heads and neurons go."""

    projections: tuple["torch.nn.Linear", ...]
    """Their outputs are heads side by side, `head_dim` each."""
    attention_output: "torch.nn.Linear"
    ffn_input: "torch.nn.Linear"
    ffn_output: "torch.nn.Linear"
    head_dim: int
    projection_blocks: int = 1
    """How many times the heads stand in one projection: 3 where query, key and value are fused."""
    ffn_blocks: int = 1
    """How many times the neurons stand in the FFN's input: 2 where it is gated."""
    readers: "tuple[torch.nn.Linear, ...]" = ()
    """Those of the projections that read the stream and nothing else; empty: the first three do."""

    @property
    def n_heads(self) -> int:
        return self.attention_output.in_features // self.head_dim

    @property
    def n_neurons(self) -> int:
        return self.ffn_output.in_features


class LayerStack(Family):
    """Layers in a `ModuleList`."""

    @abstractmethod
    def stack(self, model: "torch.nn.Module") -> "torch.nn.ModuleList":
        """Return the list of layers itself."""

    @abstractmethod
    def slots(self, layer: Any) -> Slots:
        """Return the linears of one layer."""

    @abstractmethod
    def note_heads(self, layer: Any, kept: Sequence[int]) -> None:
        """Tell the attention module which heads (as they were before) it has now."""

    @abstractmethod
    def note_layers(self, model: Any, kept: Sequence[int]) -> None:
        """Tell modules and configuration which layers (as they were before) are left, `num_hidden_layers` apart."""

    def layers(self, model: "torch.nn.Module") -> Sequence[LayerParts]:
        return [layer_parts(self.slots(layer), layer) for layer in self.stack(model)]

    def resize_layer(self, model: "torch.nn.Module", index: int, keep: "LayerShape") -> None:
        layer = self.stack(model)[index]
        cut_layer(self.slots(layer), keep)
        self.note_heads(layer, keep.heads)

    def keep_layers(self, model: "torch.nn.Module", kept: Sequence[int]) -> None:
        stack = self.stack(model)
        wanted = [stack[i] for i in check_kept(kept, len(stack))]
        del stack[len(wanted) :]
        for i, layer in enumerate(wanted):
            stack[i] = layer
        model.config.num_hidden_layers = len(wanted)  # type: ignore[union-attr]
        self.note_layers(model, kept)


def layer_parts(slots: Slots, layer: "torch.nn.Module") -> LayerParts:
    return LayerParts(
        slots.attention_output,
        slots.ffn_output,
        slots.n_heads,
        slots.head_dim,
        slots.n_neurons,
        ffn_input=slots.ffn_input,
        layer=layer,
        projections=slots.projections,
        readers=slots.readers or slots.projections[:3],
    )


def cut_layer(slots: Slots, keep: "LayerShape") -> None:
    """Cut all linears of a layer to `keep`.

    Raises:
        StageFailed: `keep` is unsorted, or names units that the layer does not have.

    """
    check_units("heads", keep.heads, slots.n_heads)
    check_units("neurons", keep.neurons, slots.n_neurons)
    n_heads, n_neurons = slots.n_heads, slots.n_neurons
    for linear in slots.projections:
        keep_rows(linear, unit_rows(keep.heads, slots.head_dim, n_heads, slots.projection_blocks))
    keep_columns(slots.attention_output, unit_rows(keep.heads, slots.head_dim, n_heads))
    keep_rows(slots.ffn_input, unit_rows(keep.neurons, 1, n_neurons, slots.ffn_blocks))
    keep_columns(slots.ffn_output, keep.neurons)


def check_kept(kept: Sequence[int], n_layers: int) -> Sequence[int]:
    if not kept:
        raise StageFailed("no layers would be left", hint="remove less")
    check_units("layers", kept, n_layers)
    return kept


def check_units(what: str, kept: Sequence[int], n_units: int) -> None:
    if list(kept) != sorted(set(kept)) or (kept and (kept[0] < 0 or kept[-1] >= n_units)):
        raise StageFailed(f"kept {what} must be ascending, between 0 and {n_units - 1}: {list(kept)[:8]}")
