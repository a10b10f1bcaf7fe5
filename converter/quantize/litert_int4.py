"""Int4 for TFLite: blocks of weights with a scale each, activations in int8 at run time."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from converter.binding import among, option
from converter.graphs import Kind
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome
from converter.tflite.file import read_flat
from converter.tflite.model import TfliteModel
from converter.tflite.quantize.requantize import Scheme, WeightFit, in_8_bits, requantize
from converter.tflite.writing.quantize import output_layers

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
    precision = Precision("int4", Limits(agreement=0.96, stability=0.99, max_drop=0.03, sequences=0.5, perplexity=1.1))
    gentler: ClassVar[tuple[str, ...]] = ("int4:embeddings=8", "mixed", "mixed:kept=0.7", "dynamic")
    summary = "int4 weights in blocks"
    takes: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder", "encoder-decoder")
    needs_text = True

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        return self._quantized(given, ctx, "int4", 0.0)

    def _quantized(self, given: TfliteModel, ctx: Context, name: str, kept: float) -> Outcome[TfliteModel]:
        if given.source.cache is not None:
            return self._of_writer(given, ctx)
        rules = Scheme(4, integer=True, algorithm="OCTAV", granularity=f"BLOCKWISE_{self.block}")
        fit = WeightFit(self.texts, self.smooth, PEAK, self.block, kept)
        return requantize(given, rules.rules(["FULLY_CONNECTED"]), name, ctx, tables=self.embeddings, fit=fit)

    def _of_writer(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        """Round to nearest in blocks; a tied table, which is the output layer too, in int8 and once."""
        rules = Scheme(4, integer=True, algorithm="OCTAV", granularity=f"BLOCKWISE_{self.block}")
        made = rules.rules(["FULLY_CONNECTED"]) + in_8_bits(output_layers(read_flat(given.path)))
        return requantize(given, made, "int4", ctx)
