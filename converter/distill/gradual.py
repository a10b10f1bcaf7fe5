"""Gradual pruning: heads and neurons go in several cuts while what is left learns from the source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.binding import option, span
from converter.errors import RecipeError
from converter.stage import Context, Outcome, Stage
from converter.training.options import TeacherOptions

if TYPE_CHECKING:
    from converter.forecast import Forecast
    from converter.prune.structured import StructuredPruning


@dataclass(frozen=True)
class GradualPruning(TeacherOptions, Stage[TorchModel, TorchModel]):
    """Prune to a goal along a cubic schedule, training in between (Zhu and Gupta, arXiv 1710.01878; GRAIN, 2212.07634).

    Each pruning step measures importance again, chooses widths as `prune.structured` does, and refits what is kept by
    least squares. The last step is at the share `until` of the training; the model recovers in the rest.

    As a recipe: `compress = [{stage = "distill.gradual", speedup = 4}]`
    """

    speedup: float | None = option(
        None,
        "speedup to reach over the unpruned model, by times measured on this machine",
        low=1.01,
        search=span(1.25, 8.0, step=0.25),
    )
    latency_ms: float | None = option(
        None, "milliseconds per text to reach, by times measured on this machine", low=0.0001
    )
    size_mb: float | None = option(None, "size of the model file to reach, in megabytes", low=0.0001)
    cuts: int = option(4, "number of pruning steps during the training", low=2, high=32)
    until: float = option(0.4, "share of the training after which nothing more is pruned", low=0.01, high=0.95)
    round_to: int = option(16, "keep a multiple of this many neurons in each layer, where its width allows", low=1)
    texts: int = option(1024, "calibration texts to measure importance on and to fit to", low=1, effort=64)

    summary = "remove attention heads and FFN neurons in several steps while distilling"
    why_not = (
        "it prunes by times of sub-layers, which are known for encoders; "
        "prune.structured and distill.soft do that in two steps"
    )
    needs_text = True
    place = 5
    trains = True

    def __post_init__(self) -> None:
        named = [n for n in ("speedup", "latency_ms", "size_mb") if getattr(self, n) is not None]
        if len(named) != 1:
            raise RecipeError(
                f"give {' or '.join(named)}, not both" if named else "there is no goal to prune to",
                where="distill.gradual",
                hint="" if named else "give speedup, latency_ms or size_mb",
            )

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.distill._gradual import cubic_cuts
        from converter.forecast import forecast_of, spent

        pruned = self.pruning().forecast(now, model, ctx)
        cuts = cubic_cuts(now.matrices, pruned.matrices, self.cuts, self.until)
        ends = [*(cut.at for cut in cuts[1:]), 1.0]
        left = sum(cut.allowed * (end - cut.at) for cut, end in zip(cuts, ends, strict=True))
        student = left / max(1, forecast_of(model).matrices)
        return spent(pruned, passes=self.passes(len(ctx.calibration), student))

    def pruning(self) -> "StructuredPruning":
        """Return the pruning that goes all the way at once."""
        from converter.prune.structured import StructuredPruning

        return StructuredPruning(
            speedup=self.speedup,
            latency_ms=self.latency_ms,
            size_mb=self.size_mb,
            steps=self.cuts,
            round_to=self.round_to,
            texts=self.texts,
        )

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.distill._gradual import prune_gradually

        return prune_gradually(self, given, ctx)
