"""Which teacher layer a student layer learns from, and the modules that show what is learned of a layer."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from converter.errors import SourceError, UsageError
from converter.forward import Forward, decides_at_end
from converter.model_folder.dropped_tokens import left_by_layer
from converter.training.relations import RelationTap

if TYPE_CHECKING:
    from converter.artifact import TorchModel


def map_layers(n_student: int, n_teacher: int, kept: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return, per student layer, the teacher layer (from 0) whose output it should give.

    With `kept` (the teacher's layers that remain) a student layer stands for itself and the dropped layers behind it,
    so it learns the output of the last of those; the last layer always learns the teacher's last, which the head reads.
    Without, layers are spread evenly.

    >>> map_layers(3, 6), map_layers(3, 6, (0, 1, 4))
    ((1, 3, 5), (0, 3, 5))
    """
    if kept is not None and len(kept) == n_student:
        return tuple(k - 1 for k in (*kept[1:], n_teacher))
    return tuple(max(0, round((i + 1) * n_teacher / n_student) - 1) for i in range(n_student))


def kept_layers(student: "TorchModel", teacher: "TorchModel") -> tuple[int, ...] | None:
    """Return the teacher's layers that `student` has kept; None where its shape map does not tell."""
    if student.shape_map is None:
        return None
    kept = student.shape_map.layers_kept
    if teacher.shape_map is None:
        return kept
    # The source was pruned already: both maps count layers of the model before that.
    known = teacher.shape_map.layers_kept
    return tuple(known.index(k) for k in kept) if set(kept) <= set(known) else None


def refuse_layers(layers: Sequence[int], n_student: int, n_teacher: int) -> None:
    """Raise `UsageError` where a map that was given does not fit the two models."""
    where = "layers"
    if len(layers) != n_student:
        raise UsageError(
            f"{len(layers)} layers of the teacher are named for {n_student} of the student",
            where=where,
            hint="name one for each, as in 1+3+5",
        )
    if max(layers) >= n_teacher:
        raise UsageError(
            f"the teacher has no layer {max(layers)}: they are 0 to {n_teacher - 1}", where=where, hint="name another"
        )


class ForwardOutputs(NamedTuple):
    """What one forward shows."""

    outputs: dict[str, torch.Tensor]
    hidden: tuple[torch.Tensor, ...] = ()
    """`[batch, length, width]`, of the layers that were asked for."""
    relations: tuple[torch.Tensor, ...] = ()
    """Query, key and value of one layer, `[batch, length, width]` each; queries to an encoder's are the answer's."""
    left: tuple[torch.Tensor, ...] = ()
    """Tokens that are not dropped, bool `[batch, length]`: of each of `hidden`, then of `relations`. Empty: all."""


def moved(seen: ForwardOutputs, device: torch.device) -> ForwardOutputs:
    """Return the same on another device."""
    outputs = {name: value.to(device) for name, value in seen.outputs.items()}
    rows = (seen.hidden, seen.relations, seen.left)
    return ForwardOutputs(outputs, *(tuple(t.to(device) for t in row) for row in rows))


class ObservedForward(torch.nn.Module):
    """The measured forward that also shows hidden states (of the layers `hidden`) and queries, keys and values.

    `cross`: those of a decoder's attention to its encoder.
    """

    def __init__(
        self,
        model: "TorchModel",
        hidden: Sequence[int] = (),
        relations: int | None = None,
        projection: torch.nn.Module | None = None,
        *,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.forward_of = Forward(model)
        self.hidden = tuple(hidden)
        self.tap = None if relations is None else RelationTap(model, relations, cross=cross)
        self.relations_of = relations
        self.projection = torch.nn.Identity() if projection is None else projection

    def forward(self, feed: dict[str, torch.Tensor]) -> ForwardOutputs:
        if self.forward_of.decides_at_end:
            return ForwardOutputs(self.forward_of(**feed))
        with self.tap or nullcontext():
            made = self.forward_of.call(feed, hidden=bool(self.hidden))
        outputs = self.forward_of.named_outputs(made, feed["attention_mask"])
        states = [state for stack in states_of(made) for state in stack] if self.hidden else []
        hidden = tuple(self.projection(states[i]) for i in self.hidden)
        return ForwardOutputs(outputs, hidden, self.tap.taken() if self.tap else (), self._left(feed["attention_mask"]))

    def _left(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tokens that count: a layer's states are of those it left, its relations of those it read."""
        left = left_by_layer(self.forward_of.model)
        if not left:
            return ()
        read = [attention_mask.bool(), *left]
        return tuple(left[i] for i in self.hidden) + (() if self.relations_of is None else (read[self.relations_of],))


def states_of(made: Mapping[str, Any]) -> list[list[torch.Tensor]]:
    """Return what each layer of each stack put out, `[batch, length, width]`, an encoder's first."""
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    # The first hidden state is the embeddings' output.
    return [list(made[name][1:]) for name in names if made.get(name) is not None]


def hidden_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    left: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """Mean squared distance of `[batch, length, width]` states, padding excluded, relative to the teacher's square.

    Relative, since the size of hidden states differs a hundredfold between architectures: 1 is as far off as all zeros.
    `left`: of each layer the tokens that are not dropped, which alone have a state of that layer; empty: all.
    """
    own = attention_mask.bool()
    parts = []
    for i, (state, other) in enumerate(zip(student, teacher, strict=True)):
        real = own & left[i] if left else own
        wanted = other[real]
        parts.append((state[real] - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12))
    return torch.stack(parts).mean()


def depths_and_width(model: "TorchModel", feed: dict[str, torch.Tensor]) -> tuple[tuple[int, ...], int]:
    """Return the number of layers of each stack and the width of their states, read off one forward.

    Configurations name both in too many ways.

    Raises:
        SourceError: an encoder-decoder that classifies, whose states are not compared.

    """
    if decides_at_end(model.module):
        raise SourceError(
            f"{model.config.model_type} is an encoder-decoder: its hidden states are of two stacks, and not compared",
            where=model.provenance.id,
            hint="distill its outputs alone: hidden=0 and relation=0",
        )
    with torch.no_grad():
        stacks = states_of(Forward(model).call(feed, hidden=True))
    return tuple(map(len, stacks)), stacks[-1][-1].shape[-1]


def map_stacks(own: Sequence[int], known: Sequence[int], kept: Sequence[int] | None) -> tuple[int, ...]:
    """Do what `map_layers` does for each stack; layers of a decoder are counted on from those of its encoder.

    >>> map_stacks((3, 1), (3, 2), (0, 1, 2, 3))
    (0, 1, 2, 4)
    """
    made: list[int] = []
    begin = 0
    for n_own, n_known in zip(own, known, strict=True):
        here = None if kept is None else [k - begin for k in kept if begin <= k < begin + n_known]
        made += [begin + i for i in map_layers(n_own, n_known, here)]
        begin += n_known
    return tuple(made)
