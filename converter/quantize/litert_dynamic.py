"""Dynamic int8 for TFLite: weights in int8 per output channel, activations scaled at run time, one scale a row."""

from dataclasses import dataclass

from converter.binding import option
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, WeightFit, requantize

PEAK = 8.0
"""Times the mean strength of a channel that smoothing weakens: at 4, as in 4 bits, three times as many operations are
added, and what they gain is within what the choice of texts moves."""


@dataclass(frozen=True)
class LitertDynamicInt8(Quantizer[TfliteModel]):
    """ai-edge-quantizer's `dynamic_wi8_afp32`, on linear layers and embedding tables.

    Activations have one scale per token, so padding cannot change an answer.
    """

    embeddings: bool = option(
        True, "store embedding tables in int8 too, one scale per row: they are most of a small model"
    )
    smooth: float = option(
        0.5, "smoothing strength: how much of outlier input channels is moved into the weights; 0: none", low=0.0
    )
    texts: int = option(32, "calibration texts that weight rounding is fitted to; 0: round to nearest", low=0)

    target = "tflite"
    precision = Precision(
        "dynamic", Limits(agreement=0.985, stability=0.99, max_drop=0.01, sequences=0.8, perplexity=1.02)
    )
    gentler = ("dynamic:smooth=0", "weights", "static")
    summary = "int8 weights, activation scales computed per token at run time"
    takes = ("encoder", "decoder", "encoder-decoder")
    needs_text = True

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        fit = WeightFit(self.texts, self.smooth, PEAK) if self.texts else None
        rules = Scheme(8, integer=True).rules(["FULLY_CONNECTED"])
        return requantize(given, rules, "dynamic", ctx, tables=8 if self.embeddings else 0, fit=fit)
