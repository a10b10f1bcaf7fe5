"""Sequence level: the student learns the very texts that the teacher writes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage
from converter.training.options import TeacherOptions

if TYPE_CHECKING:
    from converter.forecast import Forecast


@dataclass(frozen=True)
class SequenceLevel(TeacherOptions, Stage[TorchModel, TorchModel]):
    """Distillation on the teacher's own output (Kim and Rush, arXiv 1606.07947): texts alone are enough.

    The teacher writes an answer to every calibration text, greedily or with beams; what it wrote is kept in a file and
    is what the student learns, token by token, with the teacher's probabilities at each step (`soft_weight`) and the
    tokens themselves (`hard_weight`). Of a text that a causal model continues, the first half of its words is given.

    As a recipe: `compress = [{stage = "prune.layers", decoder = 2}, {stage = "distill.sequence", beams = 4}]`
    """

    hard_weight: float = option(0.5, "loss weight of the tokens that the teacher wrote", low=0.0)
    hidden_weight: float = option(0.0, "loss weight of the hidden states, layer by layer", low=0.0)
    temperature: float = option(1.0, "softmax temperature of teacher and student", low=0.01)
    beams: int = option(1, "beams that the teacher writes with; 1: greedily", low=1, high=16)
    longest: int = option(128, "longest answer, in tokens", low=1)
    texts: int = option(100_000, "calibration texts that the teacher answers, at most", low=1)
    file: str = option("", "JSON lines file that keeps what the teacher wrote; read where it is there already")

    summary = "train the model on the texts that the source writes (sequence-level distillation)"
    takes = ("decoder", "encoder-decoder")
    needs_text = True
    trains = True

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        n_texts = min(self.texts, len(ctx.calibration))
        # The teacher reads each of its texts once a token.
        return spent(now, passes=self.passes(n_texts) + self.beams * n_texts)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.distill._sequences import distill_sequences

        return distill_sequences(self, given, ctx)
