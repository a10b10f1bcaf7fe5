"""Soft labels: the student learns what the teacher answers, not only which answer is right."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.binding import option
from converter.distill._options import LossWeights, TrainingOptions
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.forecast import Forecast


@dataclass(frozen=True)
class SoftLabels(TrainingOptions, Stage[TorchModel, TorchModel]):
    """Divergence from the teacher's answers at a temperature (Hinton et al., arXiv 1503.02531).

    The distance of hidden states is added (as in TinyBERT, arXiv 1909.10351, but relative to the teacher's own size),
    that of relations between tokens where `relation_weight` asks for it (MiniLMv2, 2012.15828), and the data's labels
    where it has them and `hard_weight` asks for it. `augment` makes more text of the same text, which the teacher
    labels: of all options it helps a small student most, where there are only thousands of texts.

    As a recipe: `compress = [{stage = "prune.structured", speedup = 4}, {stage = "distill.soft", augment = 3}]`
    """

    temperature: float = option(2.0, "softens both answers before they are compared", low=0.01)
    soft_weight: float = option(1.0, "weight of the teacher's answers", low=0.0)
    hard_weight: float = option(0.0, "weight of the data's own labels, where it has them", low=0.0)
    hidden_weight: float = option(1.0, "weight of the hidden states, layer by layer", low=0.0)
    relation_weight: float = option(0.0, "weight of relations between tokens (queries, keys, values)", low=0.0)
    similarity_weight: float = option(0.0, "weight of who is near whom, of sentence embeddings in a batch", low=0.0)

    summary = "learn the source's answers and hidden states"
    needs_text = True

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        # Weights, gradients, AdamW's two moments, and the teacher.
        return spent(now, passes=self.passes(len(ctx.calibration)), copies=5)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.distill._distillation import distill

        weights = LossWeights(
            self.soft_weight,
            self.hard_weight,
            self.hidden_weight,
            self.temperature,
            self.relation_weight,
            self.similarity_weight,
        )
        return distill("distill.soft", self, weights, given, ctx)
