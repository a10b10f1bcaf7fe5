"""Int4 for TFLite: blocks of weights with a scale each, activations in int8 at run time."""

from dataclasses import dataclass

from converter.binding import option
from converter.lowering.model import TfliteModel
from converter.lowering.requantize import Fit, Scheme, requantize
from converter.stage import Context, Outcome, Stage


@dataclass(frozen=True)
class LitertInt4(Stage[TfliteModel, TfliteModel]):
    """Linear layers in int4, one scale for `block` inputs of an output; embedding tables stay in int8.

    Scales clip what is rare (OCTAV: Sakr et al., arXiv 2206.06501), and strong input channels are smoothed first.
    """

    block: int = option(32, "weights that share a scale: 32, 64, 128 or 256", low=32, high=256)
    smooth: float = option(0.5, "share of strong input channels' strength that goes into the weights; 0: none", low=0.0)
    texts: int = option(32, "texts that strong channels are found on", low=1)

    summary = "int4 weights in blocks (LiteRT)"
    needs_text = True

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        scheme = Scheme(4, integer=True, algorithm="OCTAV", granularity=f"BLOCKWISE_{self.block}")
        fit = Fit(self.texts, self.smooth, rounds=False)
        return requantize(given, scheme.rules(["FULLY_CONNECTED"]), "int4", ctx, fit=fit)
