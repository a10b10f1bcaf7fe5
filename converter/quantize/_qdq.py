"""Static int8 as standard ONNX: `QuantizeLinear` and `DequantizeLinear` around the products, for any runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.quantize._prepare import Prepared


def write_qdq(prepared: "Prepared", ranges: dict[str, tuple[float, float]], *, reduce_range: bool) -> Path:
    """Write `rough.onnx` beside the prepared model; returns its path. `reduce_range`: weights of 7 bits."""
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
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=list(prepared.nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options=options,
    )
    quantizer.quantize_model()
    path = prepared.folder / "rough.onnx"
    quantizer.model.save_model_to_file(str(path), use_external_data_format=False)
    return path
