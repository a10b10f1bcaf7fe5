"""Which teacher layer a student layer learns from, and the modules that show their hidden states."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from converter.forward import Forward

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


class Tapped(torch.nn.Module):
    """The measured forward that also returns the hidden states after every layer (none where not asked for)."""

    def __init__(self, model: "TorchModel", *, hidden: bool, projection: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.forward_of = Forward(model)
        self.hidden = hidden
        self.projection = torch.nn.Identity() if projection is None else projection

    def forward(self, feed: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
        made = self.forward_of.model(**feed, return_dict=True, output_hidden_states=self.hidden)
        outputs = self.forward_of.named_outputs(made, feed["attention_mask"])
        # The first hidden state is the embeddings' output.
        return outputs, tuple(self.projection(h) for h in made["hidden_states"][1:]) if self.hidden else ()


def hidden_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    mapped: Sequence[int],
) -> torch.Tensor:
    """Mean squared distance of `[batch, length, width]` states, padding excluded, relative to the teacher's square.

    Relative, since the size of hidden states differs a hundredfold between architectures: 1 is as far off as all zeros.
    """
    real = attention_mask.bool()
    parts = []
    for index, state in zip(mapped, student, strict=True):
        wanted = teacher[index][real]
        parts.append((state[real] - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12))
    return torch.stack(parts).mean()


def plan_hidden(
    student: "TorchModel", teacher: "TorchModel", feed: dict[str, torch.Tensor], seed: int
) -> tuple[tuple[int, ...], torch.nn.Module | None]:
    """Return the teacher layer of each student layer, and the map between widths (None where they are equal).

    Both are read off one forward: configurations name depth and width in too many ways.
    """
    with torch.no_grad():
        _, found = Tapped(student, hidden=True)(feed)
        _, wanted = Tapped(teacher, hidden=True)(feed)
    mapped = map_layers(len(found), len(wanted), kept_layers(student, teacher))
    narrow, wide = found[-1].shape[-1], wanted[-1].shape[-1]
    if narrow == wide:
        return mapped, None
    projection = torch.nn.Linear(narrow, wide, bias=False)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projection.weight.normal_(0.0, narrow**-0.5, generator=rng)
    return mapped, projection
