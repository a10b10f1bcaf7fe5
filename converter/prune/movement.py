"""Movement pruning: weights that training moves toward zero go, while the model learns from the source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.prune.threshold import ThresholdPruning
from converter.stage import TRAINING_COPIES, Context, Outcome, Stage
from converter.training.options import LossWeights, TrainingOptions

if TYPE_CHECKING:
    from converter.forecast import Forecast

NAME = "prune.movement"


@dataclass(frozen=True)
class MovementPruning(TrainingOptions, Stage[TorchModel, TorchModel]):
    """Distill with weights set to zero by how training moves them (Sanh et al., arXiv 2005.07683).

    The score of each weight accumulates -w dL/dw with a straight-through gradient: it rises where training moves the
    weight away from zero, and a weight that was zero may come back. Scores start at |w|, because a few hundred steps
    are too few to start from zero. Sparsity grows along a cubic schedule (Zhu and Gupta, 1710.01878) and is reached at
    `until` of the training; the model recovers in the remaining steps.

    As a recipe: `compress = [{stage = "prune.movement", sparsity = 0.8, epochs = 5}]`
    """

    sparsity: float | None = option(
        None, "share of the weights to set to zero; 0.5 unless an N:M pattern decides", low=0.01, high=0.99
    )
    scope: Literal["global", "layer", "row"] = option(
        "layer", "rank weights over the whole model, within each matrix, or within each of its rows"
    )
    pattern: str = option("", "2:4 keeps 2 of 4 neighbouring inputs; 1x4 removes blocks of 1 output by 4 inputs")
    cuts: int = option(8, "number of times the zeros are chosen again", low=2, high=64)
    until: float = option(0.6, "share of the training after which the full sparsity is reached", low=0.01, high=0.95)
    temperature: float = option(2.0, "softmax temperature of teacher and student", low=0.01)
    soft_weight: float = option(1.0, "loss weight of the teacher's outputs", low=0.0)
    hard_weight: float = option(0.0, "loss weight of the labels in the data, where it has any", low=0.0)
    hidden_weight: float = option(1.0, "loss weight of the hidden states, layer by layer", low=0.0)

    summary = "movement pruning: set weights to zero that training moves toward zero, while distilling"
    why_not = "zeros make no runtime faster, and scores are learned on labels that written text does not have"
    needs_text = True
    trains = True
    copies = TRAINING_COPIES + 3  # scores and their two moments
    bars = ThresholdPruning.bars

    def __post_init__(self) -> None:
        self.ranking  # noqa: B018 - refuses what contradicts itself

    @property
    def ranking(self) -> ThresholdPruning:
        """Which weights are zero, given their scores, and how the share grows."""
        return ThresholdPruning(self.sparsity, self.scope, "magnitude", self.pattern, steps=self.cuts)

    @property
    def weights(self) -> LossWeights:
        return LossWeights(self.soft_weight, self.hard_weight, self.hidden_weight, self.temperature)

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        self.ranking.check(source, has_text=has_text)

    def beside(self, model: TorchModel) -> int:
        """Return the bytes of main memory that it takes beside the model: scores have moments of their own."""
        from converter.prune.threshold import encoder_linears

        scores = (self.copies - TRAINING_COPIES) * sum(m.weight.nbytes for m in encoder_linears(model).values())
        return super().beside(model) + int(scores)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        return spent(now, passes=self.passes(len(ctx.calibration)))

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.prune._movement import prune_by_movement

        return prune_by_movement(self, given, ctx)
