"""Static int8: weights and activations in int8 with scales fixed beforehand, from real text."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import OnnxModel
from converter.binding import option
from converter.errors import StageFailed
from converter.quantize._ranges import RunningRange
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from converter.quantize._prepare import Prepared


@dataclass(frozen=True)
class StaticInt8(Stage[OnnxModel, OnnxModel]):
    """QDQ around the large products only: unsigned 8-bit activations, signed 8-bit weights with a scale per output.

    LayerNorm, Softmax, GELU and residual additions stay in float: with them in int8 a tagger's F1 fell from 0.94 to
    0.10, and the file was slower. Ranges are taken from text without padding, one text at a time, so memory does not
    grow with the amount of text. A text's answer never depends on its neighbours.
    """

    samples: int = option(128, "calibration texts that are looked at", low=1)
    range: Literal["minmax", "percentile", "mse"] = option(
        "mse", "how an activation's range is chosen: minmax, percentile or mse"
    )
    smooth: bool = option(True, "move outlier channels of activations into the weights first")
    reduce_range: bool = option(False, "7-bit weights: for CPUs whose 8-bit products saturate (AVX2 without VNNI)")

    summary = "static int8 (QDQ), calibrated on real text"
    needs_text = True

    def run(self, given: OnnxModel, ctx: Context) -> Outcome[OnnxModel]:
        from converter.quantize._prepare import finish, prepare, quiet_quantizer

        if not ctx.calibration:
            raise StageFailed("static int8 needs text", where=self.name, hint="give --calibration")
        prepared = prepare(given, ctx.work / "static", ctx, smooth=self.smooth)
        ranges = self._calibrate(prepared, given, ctx)
        rough = prepared.folder / "rough.onnx"
        with ctx.progress.task("Quantizing"), quiet_quantizer():
            self._quantize(prepared, ranges, rough)
            tables = finish(rough)
            rough.unlink()
        made = replace(given, path=prepared.folder / "model.onnx", precision="static")
        facts = {"embedding_tables": tables, "texts": min(self.samples, len(ctx.calibration)), "activations": ranges}
        return Outcome(made, prepared.facts | facts)

    def _calibrate(self, prepared: "Prepared", given: OnnxModel, ctx: Context) -> dict[str, tuple[float, float]]:
        from converter.graph.activations import stream_activations

        wanted = set(prepared.nodes)
        names = list(dict.fromkeys(str(n.inputs[0].name) for n in prepared.model.graph if n.name in wanted))
        running = {name: RunningRange() for name in names}
        texts = ctx.calibration[: self.samples]
        for values in stream_activations(prepared.model, names, given.source, texts, prepared.folder, ctx.progress):
            for name, value in values.items():
                try:
                    running[name].observe(value)
                except ValueError as error:
                    raise StageFailed(str(error), where=f"{self.name}: {name}") from None
        return {name: r.choose(self.range) for name, r in running.items()}

    def _quantize(self, prepared: "Prepared", ranges: dict[str, tuple[float, float]], path: "Path") -> None:
        import numpy as np
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        from converter.graph.write import write_onnx

        smoothed = prepared.folder / "smoothed.onnx"
        write_onnx(prepared.model, smoothed)
        data = {n: TensorData(lowest=np.float32(low), highest=np.float32(high)) for n, (low, high) in ranges.items()}
        options: dict[str, Any] = {
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            # A Q/DQ pair behind the product would round what stays in float.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        }
        model = onnx.load(smoothed)
        smoothed.unlink()
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=self.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=list(prepared.nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options=options,
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(path), use_external_data_format=False)
