"""Mixed precision for TFLite: int4, and int8 for the layers that 4 bits harm most."""

from dataclasses import dataclass
from typing import ClassVar

from converter.binding import option, span
from converter.graphs import Kind
from converter.precision import Limits, Precision
from converter.quantize.litert_int4 import LitertInt4
from converter.stage import Context, Outcome
from converter.tflite.model import TfliteModel


@dataclass(frozen=True)
class LitertMixed(LitertInt4):
    """As `int4`, but a share of the weights is kept in 8 bits.

    Those are the layers whose output error in 4 bits is largest for their size, measured on calibration text.
    """

    kept: float = option(
        0.35, "share of the linear layers' weights kept in int8", low=0.01, high=0.95, search=span(0.15, 0.6, step=0.15)
    )

    target = "tflite"
    takes: ClassVar[tuple[Kind, ...]] = ("encoder",)
    precision = Precision("mixed", Limits(agreement=0.97, stability=0.99, max_drop=0.02))
    gentler = ("mixed:kept=0.7", "mixed:kept=0.9", "dynamic")
    summary = "int4 weights, int8 in the layers most sensitive to 4 bits"

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        return self._quantized(given, ctx, "mixed", self.kept)
