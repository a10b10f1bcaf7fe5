"""Static int8: weights and activations in int8 with scales fixed beforehand, from real text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.binding import option
from converter.errors import StageFailed
from converter.generate.graphs import DECODER, ENCODER
from converter.graphs import MODEL
from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from converter.onnx.quantize.fit import ProductFit
    from converter.onnx.rewrites.sites import Site

WRITTEN = 48
"""Texts that a model continues for it, at most: writing takes longer than reading."""
BLOCK = 128
"""Inputs a scale, in the decoder of a model that writes text."""


@dataclass(frozen=True)
class StaticInt8(Quantizer[OnnxModel]):
    """The large matrix products in int8: unsigned activations with fixed ranges, signed weights, one scale per output.

    LayerNorm, Softmax, GELU and residual additions stay in float: in int8 they lowered the F1 of a token classifier
    from 0.94 to 0.10, and the file was slower. Ranges are calibrated without padding, one text at a time, so memory
    does not grow with the amount of text. An answer never depends on the other texts of a batch.
    """

    samples: int = option(256, "calibration texts used", low=1, effort=32)
    range: Literal["minmax", "percentile", "mse"] = option(
        "mse", "activation ranges by minmax, percentile, or mse (least error of the matrix products that read them)"
    )
    smooth: bool = option(True, "smooth first: move outlier channels of activations into the weights (SmoothQuant)")
    bounded: bool = option(True, "limit weights so that int8 products cannot saturate on CPUs without VNNI (AVX2)")
    max_noise: float = option(
        0.05,
        "highest error of the outputs as a share of their variance; sensitive products stay in float to meet it",
        low=0.0,
    )
    portable: bool = option(False, "standard ONNX operators only (QDQ): runs in every runtime, slower in ONNX Runtime")

    target = "cpu-int8"
    precision = Precision(
        "static",
        Limits(agreement=0.97, stability=0.999, max_drop=0.02, sequences=0.7, perplexity=1.02),
        suffix="_quantized",
        client_dtype="q8",
    )
    gentler = (
        "static:max_noise=0.02",
        "static:range=percentile",
        "static:range=minmax",
        "static:max_noise=0.005",
        "dynamic",
    )
    takes = ("encoder", "encoder-decoder")
    summary = "int8 weights and activations, ranges fixed by calibration"
    needs_text = True

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.quantize.fallback import quantize_faithfully
        from converter.onnx.quantize.fit import fit_products
        from converter.onnx.quantize.folder import quantizer_folder
        from converter.onnx.quantize.prepare import Preparation, prepare

        if not ctx.calibration:
            raise StageFailed("static quantization needs calibration text", where=self.name, hint="give --calibration")
        if given.source.cache is not None:
            with quantizer_folder(self, ctx) as folder:
                return self._written(given, folder, ctx)
        preparation = Preparation(smooth=self.smooth, bounded=self.bounded, fuse=not self.portable, texts=self.samples)
        with quantizer_folder(self, ctx) as folder, prepare(given, folder, ctx, preparation) as prepared:
            path = folder / "model.onnx"
            fit = fit_products(prepared, self.range, ctx.progress, bounded=self.bounded)
            facts = quantize_faithfully(
                prepared,
                path,
                fit.noise,
                lambda model, sites: self._write(model, sites, fit),
                given,
                ctx,
                self.max_noise,
            )
        facts |= {"activations": fit.ranges, "noise": fit.noise}
        return Outcome(replace(given, files={MODEL: path}, precision="static"), prepared.facts | facts)

    def _written(self, given: OnnxModel, folder: "Path", ctx: Context) -> Outcome[OnnxModel]:
        """Put an encoder into int8 with fixed ranges, and the decoder behind it into int8 in blocks.

        Fixed ranges in a decoder were tried and left: to find the range of one token costs next to nothing, and with
        fixed ones the logits of a tiny Marian were off by 1.2 % of their range on average, where they were by 0.9 %.
        """
        from converter.onnx.quantize.block_fit import BlockRules, facts_of, fit_graph
        from converter.onnx.quantize.prepare import Preparation
        from converter.onnx.quantize.written import written_texts
        from converter.onnx.quantize.written_int8 import IntegerRules, write_int8_graph

        if ENCODER not in given.files:
            raise StageFailed("static quantization needs an encoder", where=self.name, hint="--quantize int8")
        if self.portable:
            raise StageFailed(
                "a model that writes text has no form in int8 of standard operators only",
                where=self.name,
                hint="leave portable out, or --quantize none",
            )
        texts = written_texts(given, ctx, min(self.samples, WRITTEN))
        preparation = Preparation(smooth=self.smooth, bounded=self.bounded, fuse=False, texts=len(texts))
        rules = IntegerRules(preparation, self.range, self.max_noise)
        files = {graph: folder / f"{graph}.onnx" for graph in given.files}
        facts = {ENCODER: write_int8_graph(given, ENCODER, rules, texts, files[ENCODER], ctx)}
        decoder = fit_graph(given, DECODER, BlockRules(8, BLOCK, "rtn", 8), [], folder, ctx)
        facts |= facts_of({DECODER: decoder})
        decoder.write(files[DECODER])
        return Outcome(replace(given, files=files, precision="static"), facts)

    def _write(self, model: "ir.Model", sites: "Sequence[Site]", fit: "ProductFit") -> dict[str, Any]:
        from converter.onnx.quantize.qdq import write_qdq
        from converter.onnx.rewrites.integer_products import quantize_products

        assert fit.ranges is not None, "static: they were measured"
        write = write_qdq if self.portable else quantize_products
        largest = write(model, sites, fit.ranges, bounded=self.bounded, rounded=fit.weights, shifts=fit.shifts)
        return {"largest_weight_pair": largest}
