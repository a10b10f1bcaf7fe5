"""Structured pruning, then single weights of what is left."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import RecipeError
from converter.prune.structured import StructuredPruning
from converter.prune.threshold import ThresholdPruning
from converter.stage import GRADIENTS, Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.forecast import Forecast


@dataclass(frozen=True)
class MixedPruning(Stage[TorchModel, TorchModel]):
    """Remove heads and neurons (faster everywhere), then zero weights by |w| x input (smaller archives).

    In this order, because weights set to zero would distort the importance of their heads.

    As a recipe: `compress = [{stage = "prune.mixed", heads = 0.25, ffn = 0.25, sparsity = 0.5}]`
    """

    heads: float = option(0.25, "share of the attention heads to remove", low=0.0, high=0.95)
    ffn: float = option(0.25, "share of the FFN neurons to remove", low=0.0, high=0.95)
    sparsity: float = option(0.5, "share of the remaining weights to set to zero", low=0.01, high=0.99)
    scope: Literal["global", "layer"] = option(
        "global", "rank heads and neurons over the whole model, or within each layer"
    )
    steps: int = option(4, "number of pruning steps; importance is measured again before each", low=1, high=64)
    round_to: int = option(16, "keep a multiple of this many neurons in each layer, where its width allows", low=1)
    texts: int = option(256, "calibration texts to measure importance on", low=1)
    max_length: int = option(128, "longest text in tokens; longer ones are truncated", low=4)
    score: Literal["taylor", "fisher"] = option(
        "taylor", "importance: mean absolute (taylor) or squared (fisher) effect on the loss"
    )
    loss: Literal["auto", "labels", "answers"] = option(
        "auto", "loss for the importance: the labels if every text has one, else the model's own answers"
    )

    reconstruct: bool = option(True, "refit the kept weights to the activations of the unpruned model (least squares)")

    summary = "remove attention heads and FFN neurons, then set the smallest weights to zero"
    why_not = "it chooses by times of sub-layers, which are known for encoders"
    needs_text = True
    bars = ThresholdPruning.bars

    def __post_init__(self) -> None:
        if self.heads == 0 and self.ffn == 0:
            raise RecipeError("heads and ffn are both 0: that is prune.threshold", where="prune.mixed")

    def needs_whole(self) -> str:
        return GRADIENTS

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        return self._units().forecast(now, model, ctx)

    def _units(self) -> StructuredPruning:
        return StructuredPruning(
            self.heads,
            self.ffn,
            self.scope,
            self.steps,
            self.round_to,
            self.texts,
            self.max_length,
            self.score,
            self.loss,
            self.reconstruct,
        )

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        weights = ThresholdPruning(
            self.sparsity, scope="row", score="wanda", reconstruct=self.reconstruct, texts=self.texts
        )
        shrunk = self._units().run(given, ctx)
        zeroed = weights.run(shrunk.made, ctx)
        return Outcome(zeroed.made, {**shrunk.facts, **zeroed.facts})
