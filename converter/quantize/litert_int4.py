"""Int4 for TFLite: blocks of weights with a scale each, activations in int8 at run time."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from converter.binding import among, option
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, WeightFit, requantize

PEAK = 4.0
"""Times the mean strength of a channel that smoothing weakens."""


@dataclass(frozen=True)
class LitertInt4(Quantizer[TfliteModel]):
    """Linear layers in int4, one scale per `block` inputs of an output; embedding tables in int4, one scale per row.

    Scales clip outliers where that lowers the error, outlier input channels are smoothed first, and the rounding error
    of each weight is compensated in the following ones (GPTQ, arXiv 2210.17323).
    """

    block: Literal[32, 64, 128, 256] = option(
        32, "weights per scale (block size): 32, 64, 128 or 256", search=among(32, 128)
    )
    smooth: float = option(
        0.3, "smoothing strength: how much of outlier input channels is moved into the weights; 0: none", low=0.0
    )
    embeddings: Literal[4, 8] = option(4, "bits of large embedding tables: 4 or 8")
    texts: int = option(64, "calibration texts that weight rounding is fitted to (GPTQ)", low=1)

    target = "tflite"
    precision = Precision("int4", Limits(agreement=0.96, stability=0.99, max_drop=0.03))
    gentler: ClassVar[tuple[str, ...]] = ("int4:embeddings=8", "mixed", "mixed:kept=0.7", "dynamic")
    summary = "int4 weights in blocks"
    needs_text = True

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        return self._quantized(given, ctx, "int4", 0.0)

    def _quantized(self, given: TfliteModel, ctx: Context, name: str, kept: float) -> Outcome[TfliteModel]:
        rules = Scheme(4, integer=True, algorithm="OCTAV", granularity=f"BLOCKWISE_{self.block}")
        fit = WeightFit(self.texts, self.smooth, PEAK, self.block, kept)
        return requantize(given, rules.rules(["FULLY_CONNECTED"]), name, ctx, tables=self.embeddings, fit=fit)
