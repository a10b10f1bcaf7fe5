"""The least runtime that a TFLite file needs, and the versions that the samples were written for."""

import mmap
from pathlib import Path

MODEL_FILE = "model.tflite"
KEY = "min_runtime_version"
SAMPLES = {
    "LiteRT for Android (com.google.ai.edge.litert:litert)": "1.4",
    "TensorFlowLiteSwift": "2.17",
    "ai-edge-litert, and its libLiteRt for C++": "2.3",
}
"""What the samples were written for. A file may need less: `least_runtime` says what."""


def least_runtime(folder: Path) -> dict[str, str]:
    """Return the least version of TensorFlow Lite that runs the file, and what the samples were written for."""
    found = min_runtime_version(folder / MODEL_FILE)
    return {**({"model.tflite": found} if found else {}), **SAMPLES}


def min_runtime_version(path: Path) -> str:
    """Return the version that the file's own metadata names; empty where it names none."""
    from ai_edge_litert.schema_py_generated import Model

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == KEY.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).rstrip(b"\0").decode("ascii", "replace")
        return ""
