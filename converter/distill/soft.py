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
    """Distillation: divergence from the teacher's outputs at a temperature (Hinton et al., arXiv 1503.02531).

    The loss adds the distance of hidden states (as in TinyBERT, arXiv 1909.10351, but relative to the norm of the
    teacher's), with `relation_weight` that of attention relations between tokens (MiniLMv2, 2012.15828), and with
    `hard_weight` the labels in the data. `augment` makes variants of the text, labelled by the teacher: with only
    thousands of texts, it is the option that helps a small student most.

    A model that writes text learns what the teacher holds of the next token at every step of the data's own answers
    (word level); texts without answers are for `distill.sequence`. With `relation_weight` a translator's decoder learns
    how the teacher's looks at the text: attention from the answer to the text, and relations of the values there, in
    the last layer (MiniLM, 2002.10957).

    As a recipe: `compress = [{stage = "prune.structured", speedup = 4}, {stage = "distill.soft", augment = 3}]`
    """

    summary = "train the model to reproduce the outputs and hidden states of the source"
    takes = ("encoder", "decoder", "encoder-decoder")
    needs_text = True
    place = 5
    trains = True

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import forecast_of, spent

        student = now.matrices / max(1, forecast_of(model).matrices)
        return spent(now, passes=self.passes(len(ctx.calibration), student))

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.training.distillation import distill

        return distill("distill.soft", self, self.weights, given, ctx)
