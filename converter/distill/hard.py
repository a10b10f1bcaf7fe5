"""Hard labels: the student learns the data's own labels; the teacher's answers may help."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage
from converter.training.options import TeacherOptions

if TYPE_CHECKING:
    from converter.forecast import Forecast


@dataclass(frozen=True)
class HardLabels(TeacherOptions, Stage[TorchModel, TorchModel]):
    """Fine-tuning on the labels of the calibration text, which must have some: classes, tags, or right answers."""

    hard_weight: float = option(1.0, "loss weight of the labels in the data", low=1e-9)
    soft_weight: float = option(0.0, "loss weight of the teacher's outputs", low=0.0)
    hidden_weight: float = option(0.0, "loss weight of the hidden states, layer by layer", low=0.0)

    summary = "fine-tune on the labels of the calibration text"
    takes = ("encoder", "decoder", "encoder-decoder")
    needs_text = True
    trains = True

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        return spent(now, passes=self.passes(len(ctx.calibration)))

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.training.distillation import distill, refuse_unlabelled

        refuse_unlabelled(ctx.calibration)
        return distill("distill.hard", self, self.weights, given, ctx)
