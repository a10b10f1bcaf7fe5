"""Where an architecture keeps its heads, FFN neurons and layers.

`converter/families/<name>.py` holds one each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import torch

    from converter.model_folder.shape_map import LayerShape


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other: an encoder, or a decoder."""

    name: Literal["encoder", "decoder"]
    n_layers: int


@dataclass(frozen=True)
class CrossParts:
    """The attention of a decoder's layer to what its encoder read, where it is pruned apart from that to itself."""

    attention_output: "torch.nn.Module"
    n_heads: int
    head_dim: int
    projections: "tuple[torch.nn.Module, ...]"


@dataclass(frozen=True)
class LayerParts:
    """The prunable parts of one layer, for scoring: where the units of one head or neuron can be gated.

    `attention_output` is the linear whose *input* is the concatenation of the heads (`[..., n_heads * head_dim]`);
    `ffn_output` the one whose input is the activated FFN neurons (`[..., n_neurons]`). A gate on those inputs is a gate
    on heads and neurons, so importance needs nothing else of a family. Where several query heads share keys and
    values they go together: a head is then such a group, and `head_dim` all of its query heads side by side.
    """

    attention_output: "torch.nn.Linear"
    ffn_output: "torch.nn.Linear"
    n_heads: int
    head_dim: int
    n_neurons: int
    ffn_input: "torch.nn.Linear"
    """Reads the stream that the FFN's output is added to, or (`Family.norm_first`) a norm of it."""
    layer: "torch.nn.Module"
    """The layer itself: its first argument is the stream that the output of attention is added to."""
    projections: "tuple[torch.nn.Linear, ...]"
    """Query, key and value (one linear of three blocks where they are fused); what follows projects positions."""
    readers: "tuple[torch.nn.Linear, ...]"
    """Those of the projections that read the stream and nothing else."""
    cross: CrossParts | None = None
    """Of a decoder behind an encoder, where its heads can go."""
    ffn_inputs: "tuple[torch.nn.Module, ...]" = ()
    """Of a model that writes text: the linears that neurons are the outputs of, two where the FFN is gated."""


@dataclass(frozen=True)
class LayerSteps:
    """A layer taken apart between its attention and its FFN, so that tokens can be dropped there."""

    query: "torch.nn.Linear"
    key: "torch.nn.Linear"
    value: "torch.nn.Linear"
    head_dim: int
    dropout: float
    """Of the attention's weights, while training."""
    attended: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
    """From the heads' output and the layer's input to what the FFN reads, both `[batch, length, width]`."""
    fed: "Callable[[torch.Tensor], torch.Tensor]"
    """From what the FFN reads to the layer's output."""


class Family(ABC):
    """One architecture; the registry finds it by `model_type`."""

    model_type: ClassVar[str]
    shares_layers: ClassVar[bool] = False
    """All layers are one (ALBERT): `layers` then returns that one layer."""
    norm_first: ClassVar[bool] = False
    """Normalization stands before attention and FFN (ModernBERT), not after the sum with the residual."""
    writes: ClassVar[bool] = False
    """Models of this family write text: every layer keeps a head, since each has keys and values in the cache."""
    layer_loop: ClassVar[str] = ""
    """The module of the base model that runs its layers in turn, where `steps` takes them apart; else empty."""
    fixed_heads: ClassVar[str] = ""
    """Why heads cannot be taken out of it; empty: they can."""

    def stacks(self, model: "torch.nn.Module") -> Sequence[Stack]:
        """Return the stacks, in the order in which `layers` lists their layers."""
        return (Stack("encoder", len(self.layers(model))),)

    @abstractmethod
    def layers(self, model: "torch.nn.Module") -> Sequence[LayerParts]:
        """Return the layers in order, as they are now (after any pruning)."""

    @abstractmethod
    def resize_layer(self, model: "torch.nn.Module", index: int, keep: "LayerShape") -> None:
        """Cut layer `index` in place to the heads and neurons of `keep` (indices into the layer as it is now)."""

    @abstractmethod
    def keep_layers(self, model: "torch.nn.Module", kept: Sequence[int]) -> None:
        """Drop all layers but `kept` (indices into the layers as they are now), in place, config included."""

    def steps(self, layer: "torch.nn.Module") -> LayerSteps:
        """Return a layer taken apart; of families with a `layer_loop` alone."""
        raise NotImplementedError(f"layers of {self.model_type} are not taken apart")

    def fit_layers(self, model: "torch.nn.Module", kept: Sequence[int]) -> None:  # noqa: B027 - most have nothing to do
        """Give a model, newly built from a config that `keep_layers` changed, the modules of the layers `kept`.

        `kept` are indices into the original model; only needed where layers of one architecture differ in their parts.
        """
