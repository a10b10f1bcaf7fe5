"""What a student learns of its teacher, decided before the first step, and the loss that comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from converter.training.layer_map import (
    ForwardOutputs,
    ObservedForward,
    depths_and_width,
    hidden_loss,
    kept_layers,
    map_stacks,
    refuse_layers,
)
from converter.training.losses import similarity_loss
from converter.training.options import LossWeights, TrainingOptions
from converter.training.relations import RelationPlan, cross_relation_loss, plan_relations, relation_loss

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.task import Task
    from converter.training.texts import Text

EMBEDDING = "sentence_embedding"
PARTS = ("loss", "soft", "hard", "hidden", "relation", "similarity")
"""The weighted sum, and what it is made of."""


@dataclass(frozen=True)
class DistillationObjective:
    """Which layers are learned, and from which; empty where answers alone count."""

    mapped: tuple[int, ...] = ()
    """The teacher's layer of each student layer, where hidden states count."""
    relations: RelationPlan | None = None
    projection: torch.nn.Module | None = None
    """From the student's width to the teacher's, where they differ."""
    n_encoder: int = 0
    """Of the student's layers, those of an encoder before a decoder: their states have the texts' own tokens."""

    @property
    def key(self) -> str:
        """Which states of the teacher are looked at, in a word that can name a folder."""
        return "-".join(map(str, (*self.mapped, "relations", self.relations.teacher_layer if self.relations else "no")))

    def student(self, model: "TorchModel") -> ObservedForward:
        """Return the student's forward that shows what is compared."""
        at = self.relations.student_layer if self.relations else None
        return ObservedForward(model, range(len(self.mapped)), at, self.projection, cross=self._cross)

    def teacher(self, model: "TorchModel") -> ObservedForward:
        """Return the teacher's forward that shows the same, layer by layer of the student."""
        at = self.relations.teacher_layer if self.relations else None
        return ObservedForward(model, self.mapped, at, cross=self._cross)

    @property
    def _cross(self) -> bool:
        return self.relations is not None and self.relations.cross


def plan_objective(
    student: "TorchModel",
    teacher: "TorchModel",
    feeds: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
    weights: LossWeights,
    options: TrainingOptions,
    seed: int,
) -> DistillationObjective:
    """Return the objective; `feeds` are one text as each of the two reads it.

    Raises:
        UsageError: the layers given do not fit, or there are no relations to learn.
        SourceError: relations of an architecture whose queries, keys and values are not known.

    """
    if weights.hidden == weights.relation == 0:
        return DistillationObjective()
    (own, narrow), (known, wide) = (
        depths_and_width(model, feed) for model, feed in zip((student, teacher), feeds, strict=True)
    )
    if options.layers:
        refuse_layers(options.layers, sum(own), sum(known))
    mapped = options.layers or map_stacks(own, known, kept_layers(student, teacher))
    relations = None
    if weights.relation > 0:
        relations = plan_relations(student, teacher, mapped, options.relation_heads)
    if weights.hidden == 0:
        return DistillationObjective(relations=relations)
    n_encoder = own[0] if len(own) > 1 else 0
    return DistillationObjective(mapped, relations, _projection_between(narrow, wide, seed), n_encoder)


def _projection_between(narrow: int, wide: int, seed: int) -> torch.nn.Module | None:
    """Return a map between widths that is learned beside the student; None where they are equal."""
    if narrow == wide:
        return None
    projection = torch.nn.Linear(narrow, wide, bias=False)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projection.weight.normal_(0.0, narrow**-0.5, generator=rng)
    return projection


def losses(
    objective: DistillationObjective,
    weights: LossWeights,
    task: "Task",
    seen: ForwardOutputs,
    wanted: ForwardOutputs | None,
    attention_mask: torch.Tensor,
    texts: "Sequence[Text]",
    steps: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the weighted sum as `loss`, and its parts (0 where a part does not count here).

    `steps` is 1 where outputs are learned; None: wherever `attention_mask` is.
    """
    # Touches every output, so that the processes agree on which parameters have a gradient, whatever the batch.
    zero = torch.zeros((), device=attention_mask.device)
    shown = (*seen.outputs.values(), *seen.hidden, *seen.relations)
    parts = dict.fromkeys(PARTS, zero) | {"loss": sum((v.sum() * 0.0 for v in shown), zero)}
    if wanted is not None:
        learned = attention_mask if steps is None else steps
        parts |= _of_teacher(objective, weights, task, seen, wanted, attention_mask, learned)
    if weights.hard > 0:
        hard = task.hard_loss(seen.outputs, texts)
        parts["hard"] = zero if hard is None else hard
    counted: Mapping[str, float] = {name: weights.of(name) for name in PARTS[1:]}
    return parts | {"loss": sum((weight * parts[name] for name, weight in counted.items()), parts["loss"])}


def _of_teacher(
    objective: DistillationObjective,
    weights: LossWeights,
    task: "Task",
    seen: ForwardOutputs,
    wanted: ForwardOutputs,
    attention_mask: torch.Tensor,
    steps: torch.Tensor,
) -> dict[str, torch.Tensor]:
    made = {}
    if weights.soft > 0:
        made["soft"] = task.soft_loss(seen.outputs, wanted.outputs, steps, weights.temperature)
    if objective.mapped:
        made["hidden"] = _hidden(objective.n_encoder, seen, wanted.hidden, attention_mask, steps)
    if objective.relations is not None:
        made["relation"] = _relations(objective.relations, seen, wanted, attention_mask, steps)
    if weights.similarity > 0 and EMBEDDING in seen.outputs:
        made["similarity"] = similarity_loss(seen.outputs[EMBEDDING], wanted.outputs[EMBEDDING])
    return made


def _relations(
    plan: RelationPlan,
    seen: ForwardOutputs,
    wanted: ForwardOutputs,
    attention_mask: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    if plan.cross:
        return cross_relation_loss(seen.relations, wanted.relations, attention_mask, steps, plan.n_heads)
    # Tokens that the student dropped before that layer have no relations there.
    read = attention_mask.bool() & seen.left[-1] if seen.left else attention_mask
    return relation_loss(seen.relations, wanted.relations, read, plan.n_heads)


def _hidden(
    n_encoder: int,
    seen: ForwardOutputs,
    wanted: "Sequence[torch.Tensor]",
    attention_mask: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Return the mean over all layers; states of a decoder behind an encoder have the steps of the answer."""
    if not n_encoder:
        return hidden_loss(seen.hidden, wanted, attention_mask, seen.left[: len(seen.hidden)])
    own = seen.hidden
    parts = (
        hidden_loss(own[:n_encoder], wanted[:n_encoder], attention_mask),
        hidden_loss(own[n_encoder:], wanted[n_encoder:], steps),
    )
    return (n_encoder * parts[0] + (len(own) - n_encoder) * parts[1]) / len(own)
