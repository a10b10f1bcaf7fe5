"""Dynamic int8 for TFLite: weights in int8 per output channel, activations scaled at run time, one scale a row."""

from dataclasses import dataclass

from converter.binding import option
from converter.lowering.model import TfliteModel
from converter.lowering.requantize import Scheme, requantize
from converter.stage import Context, Outcome, Stage


@dataclass(frozen=True)
class LitertDynamicInt8(Stage[TfliteModel, TfliteModel]):
    """ai-edge-quantizer's `dynamic_wi8_afp32`, on linear layers and embedding tables.

    Padding cannot change an answer: each token's activations have their own scale.
    """

    embeddings: bool = option(True, "int8 embedding tables, one scale a row: they are most of a small model")

    summary = "dynamic int8 (LiteRT)"

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        rules = Scheme(8, integer=True).rules(["FULLY_CONNECTED"])
        return requantize(given, rules, "dynamic", ctx, tables=self.embeddings)
