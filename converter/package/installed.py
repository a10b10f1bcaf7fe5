"""What is installed, read from package metadata: nothing is imported for it."""

import importlib.metadata
import platform
from collections.abc import Iterable

PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "accelerate",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tensorflow",
    "safetensors",
    "tokenizers",
    "numpy",
)


def version_of(package: str) -> str | None:
    """Return the installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of every one of `packages` that is installed."""
    found = {name: version for name in packages if (version := version_of(name)) is not None}
    return {"python": platform.python_version(), **found}
