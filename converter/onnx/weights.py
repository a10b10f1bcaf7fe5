"""The weights of an ONNX file's products, as they are stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_BEFORE = ("DequantizeLinear", "Transpose", "Cast")


def product_weights(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the matrices that products read, through dequantization and transposition where there is any."""
    from converter.onnx.read import read_onnx

    done: set[str] = set()
    for node in read_onnx(path).graph:
        if "MatMul" not in node.op_type and node.op_type != "Gemm":
            continue
        value = node.inputs[1]
        while value is not None and (made_by := value.producer()) is not None and made_by.op_type in _BEFORE:
            value = made_by.inputs[0]
        known = None if value is None else value.const_value
        if value is not None and known is not None and len(known.shape) == 2 and str(value.name) not in done:
            done.add(str(value.name))
            yield known.numpy()
