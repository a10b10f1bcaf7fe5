"""Dynamic int8: weights stored in int8, activations scaled at run time (one scale a tensor)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.binding import option
from converter.graphs import MODEL
from converter.onnx.model import OnnxModel
from converter.precision import Limits, Precision, Quantizer
from converter.stage import Context, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from converter.onnx.rewrites.sites import Site

WRITTEN = 48
"""Texts that a model continues for it, at most: writing takes longer than reading."""


@dataclass(frozen=True)
class DynamicInt8(Quantizer[OnnxModel]):
    """The large matrix products in int8 with scales computed at run time, after smoothing; embeddings in int8.

    Activations have one scale for the whole batch, so an answer can depend on the other texts of the batch (the limit
    `stability`).
    """

    samples: int = option(256, "calibration texts used for smoothing and rounding", low=1, effort=32)
    smooth: bool = option(True, "smooth first: move outlier channels of activations into the weights (SmoothQuant)")
    bounded: bool = option(True, "limit weights so that int8 products cannot saturate on CPUs without VNNI (AVX2)")
    max_noise: float = option(
        0.05,
        "highest error of the outputs as a share of their variance; sensitive products stay in float to meet it",
        low=0.0,
    )

    target = "cpu-int8"
    precision = Precision(
        "dynamic",
        # One scale for a whole batch: a text's answer can change with its neighbours (Limits.stability says how often).
        Limits(agreement=0.97, stability=0.97, max_drop=0.02, sequences=0.7, perplexity=1.02),
        suffix="_quantized",
        client_dtype="q8",
    )
    gentler = ("dynamic:max_noise=0.02", "dynamic:smooth=false", "dynamic:max_noise=0.005", "static")
    takes = ("encoder", "decoder", "encoder-decoder")
    summary = "int8 weights, activation scales computed per batch at run time"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.onnx.quantize.fallback import quantize_faithfully
        from converter.onnx.quantize.fit import fit_products
        from converter.onnx.quantize.folder import quantizer_folder
        from converter.onnx.quantize.prepare import Preparation, prepare
        from converter.onnx.rewrites.integer_products import quantize_products

        if given.source.cache is not None:
            with quantizer_folder(self, ctx) as folder:
                return self._written(given, folder, ctx)
        preparation = Preparation(smooth=self.smooth, bounded=self.bounded, fuse=True, texts=self.samples)
        with quantizer_folder(self, ctx) as folder, prepare(given, folder, ctx, preparation) as prepared:
            path = folder / "model.onnx"
            fit = fit_products(prepared, None, ctx.progress, bounded=self.bounded)

            def write(model: "ir.Model", sites: "Sequence[Site]") -> dict[str, Any]:
                largest = quantize_products(
                    model, sites, None, bounded=self.bounded, rounded=fit.weights, shifts=fit.shifts
                )
                return {"largest_weight_pair": largest}

            facts = quantize_faithfully(prepared, path, fit.noise, write, given, ctx, self.max_noise)
        made = replace(given, files={MODEL: path}, precision="dynamic")
        return Outcome(made, prepared.facts | facts | {"noise": fit.noise})

    def _written(self, given: OnnxModel, folder: "Path", ctx: Context) -> Outcome[OnnxModel]:
        """Put every graph of a model that writes text into int8."""
        from converter.onnx.quantize.prepare import Preparation
        from converter.onnx.quantize.written import written_texts
        from converter.onnx.quantize.written_int8 import IntegerRules, write_int8_graph

        texts = written_texts(given, ctx, min(self.samples, WRITTEN)) if ctx.calibration else []
        preparation = Preparation(smooth=self.smooth, bounded=self.bounded, fuse=False, texts=len(texts))
        rules = IntegerRules(preparation, None, self.max_noise)
        files, facts = {}, {}
        for graph in given.files:
            files[graph] = folder / f"{graph}.onnx"
            facts[graph] = write_int8_graph(given, graph, rules, texts, files[graph], ctx)
        return Outcome(replace(given, files=files, precision="dynamic"), facts)
