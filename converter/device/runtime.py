"""The least runtime that a TFLite file needs, and the versions that the samples were written for."""

from pathlib import Path

MODEL_FILE = "model.tflite"
KEY = "min_runtime_version"
SAMPLES = {
    "LiteRT for Android (com.google.ai.edge.litert:litert)": "1.4",
    "TensorFlowLiteSwift": "2.17",
    "ai-edge-litert, and its libLiteRt for C++": "2.3",
}
"""What the samples were written for."""


def least_runtime(folder: Path) -> dict[str, str]:
    """Return the least version of TensorFlow Lite that runs the file, and what the samples were written for."""
    return {MODEL_FILE: min_runtime_version(folder / MODEL_FILE), **SAMPLES}


def min_runtime_version(path: Path) -> str:
    """Return the least TensorFlow Lite that computes the file, as it says itself."""
    from converter.lowering.flat import read_flat
    from converter.lowering.versions import stated_version

    return stated_version(read_flat(path))
