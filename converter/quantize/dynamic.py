"""Dynamic int8: weights stored in int8, activations scaled at run time (one scale a tensor)."""

from dataclasses import dataclass, replace

from converter.artifact import OnnxModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage


@dataclass(frozen=True)
class DynamicInt8(Stage[OnnxModel, OnnxModel]):
    """The large products in int8 with scales taken at run time, after smoothing; embeddings with a scale a row.

    Activations have one scale for the whole batch: a text's answer can depend on its neighbours (`Limits.stability`).
    """

    samples: int = option(256, "calibration texts that smoothing and rounding look at", low=1)
    smooth: bool = option(True, "move outlier channels of activations into the weights first")
    bounded: bool = option(True, "keep weights so small that no CPU's 8-bit products saturate (AVX2 without VNNI)")

    summary = "dynamic int8, outlier channels smoothed"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.graph.integer_products import quantize_products
        from converter.quantize._fit import fit_products
        from converter.quantize._prepare import Wish, finish, prepare

        wish = Wish(smooth=self.smooth, bounded=self.bounded, fuse=True, texts=self.samples)
        prepared = prepare(given, ctx.work / "dynamic", ctx, wish)
        fit = fit_products(prepared, None, ctx.progress, bounded=self.bounded)
        largest = quantize_products(
            prepared.model, prepared.sites, None, bounded=self.bounded, rounded=fit.weights, shifts=fit.shifts
        )
        facts = {
            "largest_weight_pair": largest,
            "noise": fit.noise,
            "embedding_tables": finish(prepared.model, prepared.folder),
        }
        prepared.remove()
        return Outcome(replace(given, path=prepared.folder / "model.onnx", precision="dynamic"), prepared.facts | facts)
