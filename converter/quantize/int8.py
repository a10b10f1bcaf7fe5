"""Int8 weights in blocks for models that write text."""

from dataclasses import dataclass

from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision
from converter.quantize._blocks import BlockQuantizer
from converter.stage import Context, Outcome


@dataclass(frozen=True)
class Int8Blocks(BlockQuantizer):
    """All large matrix products and embedding tables of a model that writes text in int8, a scale a block of inputs.

    Activations are rounded to 8 bits a row and block, at run time: an answer does not depend on the other texts of a
    batch. In 8 bits a block of 128 loses next to nothing to one of 32 and is read in two thirds of the time.
    """

    target = "cpu-int8"
    leaves_vectors = True
    takes = ("decoder", "encoder-decoder")
    precision = Precision(
        "int8",
        Limits(agreement=0.98, stability=0.98, sequences=0.8, perplexity=1.01),
        bytes_a_weight=1.015625,
        suffix="_quantized",
        client_dtype="q8",
    )
    summary = "int8 weights in blocks, for models that write text"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.quantize.block_fit import BlockRules

        return self.quantize(given, ctx, BlockRules(8, self.block, "rtn", 8), 0, None)
