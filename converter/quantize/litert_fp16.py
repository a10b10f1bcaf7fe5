"""Half-precision weights for TFLite: half the size, computed in float32 on CPUs and in half precision on GPUs."""

from dataclasses import dataclass

from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, requantize


@dataclass(frozen=True)
class LitertFp16(Quantizer[TfliteModel]):
    """Weights of linear layers and embedding tables in fp16."""

    target = "tflite"
    precision = Precision(
        "fp16",
        Limits(max_error=0.02, agreement=0.995, stability=1.0, sequences=0.95, perplexity=1.01),
        bytes_a_weight=2,
        tolerance=1e-2,
    )
    summary = "float16 weights"
    takes = ("encoder", "decoder", "encoder-decoder")

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        operations = ["FULLY_CONNECTED", "EMBEDDING_LOOKUP"]
        scheme = Scheme(16, integer=False, algorithm="float_casting", dtype="FLOAT")
        return requantize(given, scheme.rules(operations), "fp16", ctx, tables=0)
