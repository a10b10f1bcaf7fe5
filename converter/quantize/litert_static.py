"""Static int8 for TFLite: activation ranges are measured on real text beforehand and stand in the file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.binding import option
from converter.lowering.model import SIGNATURE, TfliteModel
from converter.lowering.quiet import quiet
from converter.lowering.requantize import Scheme, requantize
from converter.lowering.rows import filled_rows
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LitertStaticInt8(Stage[TfliteModel, TfliteModel]):
    """Linear layers in int8 with fixed ranges; attention, normalization and GELU stay in float.

    Every signature is calibrated on rows that real text fills to the last token: padding moves no range.
    """

    texts: int = option(32, "texts per length that ranges are measured on", low=1)

    summary = "static int8 (LiteRT)"
    needs_text = True

    def run(self, given: TfliteModel, ctx: Context) -> Outcome[TfliteModel]:
        with quiet():
            from ai_edge_quantizer.quantizer import Quantizer

        rules = Scheme(8, integer=True, activation_bits=8).rules(["FULLY_CONNECTED"])
        rules += Scheme(8, integer=True).rules(["EMBEDDING_LOOKUP"])
        quantizer = Quantizer(str(given.path), rules)
        ranges = None
        with ctx.progress.task("Measuring ranges", total=len(given.lengths)) as ticker:
            for length in given.lengths:
                data = {f"{SIGNATURE}{length}": list(_feeds(given, ctx, length, self.texts))}
                with quiet():
                    ranges = quantizer.calibrate(data, previous_calibration_result=ranges, num_threads=1)
                ticker.advance()
        made = requantize(given, rules, "static", ctx, ranges)
        return Outcome(made, {"texts_a_length": self.texts, "builtin_text": ctx.calibration_is_builtin})


def _feeds(given: TfliteModel, ctx: Context, length: int, count: int) -> "Iterator[dict[str, NDArray[np.int32]]]":
    for row in filled_rows(given.source, ctx, length, count):
        yield {name: ids[None].astype(np.int32) for name, ids in row.inputs.items()}
