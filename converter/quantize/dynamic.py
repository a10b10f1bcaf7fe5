"""Dynamic int8: weights stored in int8, activations scaled at run time (one scale a tensor)."""

from dataclasses import dataclass, replace

from converter.artifact import OnnxModel
from converter.binding import option
from converter.stage import Context, Outcome, Stage


@dataclass(frozen=True)
class DynamicInt8(Stage[OnnxModel, OnnxModel]):
    """ONNX Runtime's dynamic quantization."""

    per_channel: bool = option(True, "one weight scale per output channel")

    summary = "dynamic int8 (ONNX Runtime)"

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = ctx.work / "dynamic" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        quantize_dynamic(given.path, path, per_channel=self.per_channel, weight_type=QuantType.QInt8)
        return Outcome(replace(given, path=path, precision="dynamic"))
