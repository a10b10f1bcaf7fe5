"""Static int8: weights and activations in int8 with scales fixed beforehand, from real text."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import OnnxModel
from converter.binding import option
from converter.errors import StageFailed
from converter.quantize._ranges import RunningRange
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.quantize._prepare import Prepared


@dataclass(frozen=True)
class StaticInt8(Stage[OnnxModel, OnnxModel]):
    """The large products only: unsigned 8-bit activations with fixed ranges, signed 8-bit weights, a scale per output.

    LayerNorm, Softmax, GELU and residual additions stay in float: with them in int8 a tagger's F1 fell from 0.94 to
    0.10, and the file was slower. Ranges are taken from text without padding, one text at a time, so memory does not
    grow with the amount of text. A text's answer never depends on its neighbours.
    """

    samples: int = option(128, "calibration texts that are looked at", low=1)
    range: Literal["minmax", "percentile", "mse"] = option(
        "mse", "how an activation's range is chosen: minmax, percentile or mse"
    )
    smooth: bool = option(True, "move outlier channels of activations into the weights first")
    bounded: bool = option(True, "keep weights so small that no CPU's 8-bit products saturate (AVX2 without VNNI)")
    portable: bool = option(False, "standard ONNX only (QDQ), no operators of ONNX Runtime's own: slower there")

    summary = "static int8, calibrated on real text"
    needs_text = True

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.quantize._prepare import prepare

        if not ctx.calibration:
            raise StageFailed("static int8 needs text", where=self.name, hint="give --calibration")
        prepared = prepare(given, ctx.work / self._folder, ctx, smooth=self.smooth, fuse=not self.portable)
        ranges = self._calibrate(prepared, given, ctx)
        with ctx.progress.task("Quantizing"):
            facts = self._qdq(prepared, ranges) if self.portable else self._integers(prepared, ranges)
        made = replace(given, path=prepared.folder / "model.onnx", precision="static")
        facts |= {"texts": min(self.samples, len(ctx.calibration)), "activations": ranges}
        return Outcome(made, prepared.facts | facts)

    @property
    def _folder(self) -> str:
        return "static-portable" if self.portable else "static"

    def _integers(self, prepared: "Prepared", ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
        from converter.graph.integer_products import quantize_products
        from converter.quantize._prepare import finish

        largest = quantize_products(prepared.model, prepared.sites, ranges, bounded=self.bounded)
        return {"largest_weight_pair": largest, "embedding_tables": finish(prepared.model, prepared.folder)}

    def _qdq(self, prepared: "Prepared", ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
        import onnx_ir as ir

        from converter.quantize._prepare import finish, quiet_quantizer
        from converter.quantize._qdq import write_qdq

        with quiet_quantizer():
            rough = write_qdq(prepared, ranges, reduce_range=self.bounded)
        made = ir.load(rough)
        tables = finish(made, prepared.folder)
        rough.unlink()
        return {"embedding_tables": tables}

    def _calibrate(self, prepared: "Prepared", given: OnnxModel, ctx: Context) -> dict[str, tuple[float, float]]:
        from converter.graph.activations import stream_activations

        names = list(dict.fromkeys(str(s.given.name) for s in prepared.sites))
        running = {name: RunningRange() for name in names}
        texts = ctx.calibration[: self.samples]
        for values in stream_activations(prepared.model, names, given.source, texts, prepared.folder, ctx.progress):
            for name, value in values.items():
                try:
                    running[name].observe(value)
                except ValueError as error:
                    raise StageFailed(str(error), where=f"{self.name}: {name}") from None
        return {name: r.choose(self.range) for name, r in running.items()}
