"""Prune, distill, quantize and export pretrained language models, each package proven to answer like its source.

`__all__` is the whole promise. Importing this package imports neither torch nor a runtime.
"""

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime reads this at its import and is silent only if it is set before; see its Privacy.md (1.29 and later).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from converter.api import Recipe, Result, convert, load_recipe, open_package, sign, verify
    from converter.errors import ExportError

__all__ = ["ExportError", "Recipe", "Result", "__version__", "convert", "load_recipe", "open_package", "sign", "verify"]


def __getattr__(name: str) -> Any:
    if name == "ExportError":
        from converter.errors import ExportError

        return ExportError
    if name in __all__:
        from converter import api

        return getattr(api, name)
    raise AttributeError(f"module 'converter' has no attribute {name!r}")
