"""Dynamic int8: weights stored in int8, activations scaled at run time (one scale a tensor)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from converter.binding import option
from converter.graphs import MODEL
from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome

if TYPE_CHECKING:
    import onnx_ir as ir

    from converter.onnx.rewrites.sites import Site


@dataclass(frozen=True)
class DynamicInt8(Quantizer[OnnxModel]):
    """The large products in int8 with scales taken at run time, after smoothing; embeddings with a scale a row.

    Activations have one scale for the whole batch: a text's answer can depend on its neighbours (`Limits.stability`).
    """

    samples: int = option(256, "calibration texts that smoothing and rounding look at", low=1)
    smooth: bool = option(True, "move outlier channels of activations into the weights first")
    bounded: bool = option(True, "keep weights so small that no CPU's 8-bit products saturate (AVX2 without VNNI)")
    max_noise: float = option(
        0.05, "share of the answers' variance that int8 may cost; products stay in float until it does not", low=0.0
    )

    target = "cpu-int8"
    precision = Precision(
        "dynamic",
        # One scale for a whole batch: a text's answer can change with its neighbours (Limits.stability says how often).
        Limits(agreement=0.97, stability=0.97, max_drop=0.02),
        suffix="_quantized",
        client_dtype="q8",
    )
    summary = "dynamic int8, outlier channels smoothed"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.quantize.fallback import quantize_faithfully
        from converter.onnx.quantize.fit import fit_products
        from converter.onnx.quantize.prepare import Preparation, prepare
        from converter.onnx.rewrites.integer_products import quantize_products

        preparation = Preparation(smooth=self.smooth, bounded=self.bounded, fuse=True, texts=self.samples)
        prepared = prepare(given, ctx.work / f"dynamic-{crc32(repr(self).encode()):08x}", ctx, preparation)
        fit = fit_products(prepared, None, ctx.progress, bounded=self.bounded)

        def write(model: "ir.Model", sites: "Sequence[Site]") -> dict[str, Any]:
            largest = quantize_products(
                model, sites, None, bounded=self.bounded, rounded=fit.weights, shifts=fit.shifts
            )
            return {"largest_weight_pair": largest}

        facts = quantize_faithfully(prepared, fit.noise, write, given, ctx, self.max_noise)
        prepared.remove()
        made = replace(given, files={MODEL: prepared.folder / "model.onnx"}, precision="dynamic")
        return Outcome(made, prepared.facts | facts | {"noise": fit.noise})
