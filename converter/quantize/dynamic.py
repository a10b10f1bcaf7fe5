"""Dynamic int8: weights stored in int8, activations scaled at run time (one scale a tensor)."""

from dataclasses import dataclass, replace

from converter.artifact import OnnxModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage


@dataclass(frozen=True)
class DynamicInt8(Stage[OnnxModel, OnnxModel]):
    """ONNX Runtime's dynamic quantization of the large products, after smoothing; embeddings with a scale a row.

    Activations have one scale for the whole batch: a text's answer can depend on its neighbours (`Limits.stability`).
    """

    per_channel: bool = option(True, "one weight scale per output channel")
    smooth: bool = option(True, "move outlier channels of activations into the weights first")
    reduce_range: bool = option(False, "7-bit weights: for CPUs whose 8-bit products saturate (AVX2 without VNNI)")

    summary = "dynamic int8 (ONNX Runtime), outlier channels smoothed"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        import onnx_ir as ir

        from converter.graph.write import write_onnx
        from converter.quantize._prepare import finish, prepare, quiet_quantizer

        prepared = prepare(given, ctx.work / "dynamic", ctx, smooth=self.smooth)
        smoothed, rough = prepared.folder / "smoothed.onnx", prepared.folder / "rough.onnx"
        write_onnx(prepared.model, smoothed)
        with ctx.progress.task("Quantizing weights"), quiet_quantizer():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                smoothed,
                rough,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=list(prepared.nodes),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
            )
            smoothed.unlink()
            tables = finish(ir.load(rough), prepared.folder)
            rough.unlink()
        made = replace(given, path=prepared.folder / "model.onnx", precision="dynamic")
        return Outcome(made, prepared.facts | {"embedding_tables": tables})
