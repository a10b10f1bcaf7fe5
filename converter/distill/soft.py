"""Soft labels: the student learns what the teacher answers, not only which answer is right."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.stage import Context, Outcome, Stage
from converter.training.options import TeacherOptions

if TYPE_CHECKING:
    from converter.forecast import Forecast


@dataclass(frozen=True)
class SoftLabels(TeacherOptions, Stage[TorchModel, TorchModel]):
    """Divergence from the teacher's answers at a temperature (Hinton et al., arXiv 1503.02531).

    The distance of hidden states is added (as in TinyBERT, arXiv 1909.10351, but relative to the teacher's own size),
    that of relations between tokens where `relation_weight` asks for it (MiniLMv2, 2012.15828), and the data's labels
    where it has them and `hard_weight` asks for it. `augment` makes more text of the same text, which the teacher
    labels: of all options it helps a small student most, where there are only thousands of texts.

    As a recipe: `compress = [{stage = "prune.structured", speedup = 4}, {stage = "distill.soft", augment = 3}]`
    """

    summary = "train the model to reproduce the outputs and hidden states of the source"
    needs_text = True

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        # Weights, gradients, AdamW's two moments, and the teacher.
        return spent(now, passes=self.passes(len(ctx.calibration)), copies=5)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.training.distillation import distill

        return distill("distill.soft", self, self.weights, given, ctx)
