"""Int8 weights alone for TFLite: a quarter of the size, computed in float32 as before."""

from dataclasses import dataclass

from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, requantize


@dataclass(frozen=True)
class LitertWeights(Quantizer[TfliteModel]):
    """Weights of linear layers in int8, converted to float when the file is loaded.

    The download is small; memory use and speed are those of float. For delegates without integer arithmetic, and where
    dynamic int8 loses too much.
    """

    target = "tflite"
    precision = Precision(
        "weights", Limits(agreement=0.985, stability=1.0, max_drop=0.01, sequences=0.8, perplexity=1.02)
    )
    summary = "int8 weights, computed in float: a small file, no faster"
    takes = ("encoder", "decoder", "encoder-decoder")

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        return requantize(given, Scheme(8, integer=False).rules(["FULLY_CONNECTED"]), "weights", ctx)
