"""Int4 weights in blocks for models that write text."""

from dataclasses import dataclass
from typing import Literal

from converter.binding import option
from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision
from converter.quantize._blocks import TEXTS, BlockQuantizer
from converter.stage import Context, Outcome


@dataclass(frozen=True)
class Int4Blocks(BlockQuantizer):
    """All large matrix products and embedding tables of a model that writes text in int4, a scale a block of inputs.

    `rtn` rounds to nearest; `awq` first divides input channels by factors that keep the digits of those that matter
    (arXiv 2306.00978), folded into the norm before them; `gptq` makes each rounding's error good by the inputs that are
    left (arXiv 2210.17323); `awq-gptq` is the one after the other. A table that is the output layer too is always
    rounded to nearest: what would serve the one would harm the other.
    """

    method: Literal["rtn", "awq", "gptq", "awq-gptq"] = option("awq-gptq", "rounding: rtn, awq, gptq or awq-gptq")
    table: Literal[4, 8] = option(4, "bits of the table of tokens: 4 or 8")
    texts: int = option(TEXTS, "calibration texts that rounding is fitted to", low=1)
    size_mb: float | None = option(
        None, "largest size of the files in MB: the weights that lose most get 8 bits up to there", low=0.0
    )

    target = "cpu-int8"
    takes = ("decoder", "encoder-decoder")
    precision = Precision(
        "int4",
        Limits(agreement=0.85, stability=0.97, sequences=0.3, perplexity=1.1),
        bytes_a_weight=0.515625,
        suffix="_q4",
        client_dtype="q4",
    )
    summary = "int4 weights in blocks, for models that write text"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.quantize.block_fit import BlockRules

        rules = BlockRules(4, self.block, self.method, self.table)
        return self.quantize(given, ctx, rules, self.texts, self.size_mb)
