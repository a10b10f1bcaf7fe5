"""The least runtime that a TFLite file needs, and the versions that the samples were written for.

A file names the least version in its metadata, and its operations carry versions that an older runtime refuses. But
ai-edge-quantizer 0.10 changes weights and leaves both as they were: a runtime that knows one scale a tensor accepts a
file whose rows have a scale each, and need not fail to compute something else. So what the weights need is added.
"""

import mmap
from pathlib import Path
from typing import Any

MODEL_FILE = "model.tflite"
KEY = "min_runtime_version"
SAMPLES = {
    "LiteRT for Android (com.google.ai.edge.litert:litert)": "1.4",
    "TensorFlowLiteSwift": "2.17",
    "ai-edge-litert, and its libLiteRt for C++": "2.3",
}
"""What the samples were written for."""
SCALES_A_ROW = {"FULLY_CONNECTED": "2.17.0", "EMBEDDING_LOOKUP": "2.18.0"}
"""Versions that take int8 weights with a scale a row beside float activations: versions 12 and 4 of the operations."""
FOUR_BITS = "2.18.0"
BLOCKS = "2.21.0"
"""Weights of 4 bits, and those with a scale a block."""


def least_runtime(folder: Path) -> dict[str, str]:
    """Return the least version of TensorFlow Lite that runs the file, and what the samples were written for."""
    return {MODEL_FILE: min_runtime_version(folder / MODEL_FILE), **SAMPLES}


def min_runtime_version(path: Path) -> str:
    """Return the least TensorFlow Lite that computes the file: what it says itself, or what its weights need."""
    from ai_edge_litert.schema_py_generated import Model

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        return max([_stated(model), *_needed(model)], key=_as_numbers)


def _stated(model: Any) -> str:
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == KEY.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).rstrip(b"\0").decode("ascii", "replace")
    return ""


def _needed(model: Any) -> list[str]:
    """Return what each quantized weight of the first signature needs; all signatures share their weights."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, QuantizationDetails, TensorType

    kinds = {getattr(BuiltinOperator, name): name for name in SCALES_A_ROW}
    found = []
    graph = model.Subgraphs(0)
    for i in range(graph.OperatorsLength()):
        operation = graph.Operators(i)
        name = kinds.get(model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode())
        if name is None:
            continue
        weight, other = (graph.Tensors(operation.Inputs(k)) for k in (1, 0))
        scales = weight.Quantization()
        if weight.Type() == TensorType.INT4:
            found.append(FOUR_BITS)
        if scales is not None and scales.DetailsType() == QuantizationDetails.BlockwiseQuantization:
            found.append(BLOCKS)
        floating = name == "EMBEDDING_LOOKUP" or other.Type() == TensorType.FLOAT32
        if weight.Type() == TensorType.INT8 and floating and scales is not None and scales.ScaleLength() > 1:
            found.append(SCALES_A_ROW[name])
    return found


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
