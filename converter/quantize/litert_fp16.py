"""Half-precision weights for TFLite: half the size, computed in float32 on CPUs and in half precision on GPUs."""

from dataclasses import dataclass

from converter.stage import Context, Outcome, Stage
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, requantize


@dataclass(frozen=True)
class LitertFp16(Stage[TfliteModel, TfliteModel]):
    """Weights of linear layers and embedding tables in fp16."""

    summary = "float16 weights"

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        operations = ["FULLY_CONNECTED", "EMBEDDING_LOOKUP"]
        scheme = Scheme(16, integer=False, algorithm="float_casting", dtype="FLOAT")
        return requantize(given, scheme.rules(operations), "fp16", ctx, tables=0)
