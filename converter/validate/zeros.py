"""Zeros in a shipped file: whether pruned weights are still zero there, and what the file is in an archive."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.graphs import MODEL

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel

LEAST = 0.05
"""Share of zeros in the linear layers below which a model was not pruned that way."""
AT_ONCE = 1 << 22
LEVEL = 6
"""Of deflate, as archives and downloads use it."""


def zeros_facts(bundle: "Bundle") -> dict[str, Any]:
    """Return the share of zeros among the weights of the file's products, and its size deflated.

    Empty where the model has no zeros to speak of: reading all weights takes a second for every 20 MB.
    """
    wanted = zeros_of_linears(bundle.source)
    if wanted < LEAST:
        return {}
    path = bundle.folder / bundle.files[MODEL]
    zeros = weights = 0
    for values in _product_weights(path):
        zeros, weights = zeros + int((values == 0).sum()), weights + values.size
    return {
        "zeros": {
            "share_of_source": round(wanted, 4),
            # Weights of 4 bits are not unpacked.
            "share": round(zeros / weights, 4) if weights else None,
            "deflated_bytes": _deflated(path),
        }
    }


def zeros_of_linears(model: "TorchModel") -> float:
    """Return the share of zeros among the weights of all linear layers."""
    import torch

    linears = [m.weight for m in model.module.modules() if isinstance(m, torch.nn.Linear)]
    return sum(int((w == 0).sum()) for w in linears) / max(1, sum(w.numel() for w in linears))


def _product_weights(path: Path) -> "Iterator[np.ndarray[Any, Any]]":
    return _of_tflite(path) if path.suffix == ".tflite" else _of_onnx(path)


def _of_onnx(path: Path) -> "Iterator[np.ndarray[Any, Any]]":
    """Yield the matrices that products read, through dequantization and transposition where there is any."""
    from converter.onnx.read import read_onnx

    done: set[str] = set()
    for node in read_onnx(path).graph:
        if "MatMul" not in node.op_type and node.op_type != "Gemm":
            continue
        value = node.inputs[1]
        while value is not None and value.producer() is not None and value.producer().op_type in _BEFORE:
            value = value.producer().inputs[0]
        known = None if value is None else value.const_value
        if value is not None and known is not None and len(known.shape) == 2 and str(value.name) not in done:
            done.add(str(value.name))
            yield known.numpy()


_BEFORE = ("DequantizeLinear", "Transpose", "Cast")


def _of_tflite(path: Path) -> "Iterator[np.ndarray[Any, Any]]":
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    from converter.tflite.file import code_of, constant, inputs_of, read_flat

    model, done = read_flat(path), set()
    for graph in model.subgraphs:
        for operation in graph.operators:
            if code_of(model, operation) != BuiltinOperator.FULLY_CONNECTED:
                continue
            tensor = graph.tensors[inputs_of(operation)[1]]
            values = constant(model, tensor)
            if values is not None and tensor.buffer not in done:
                done.add(tensor.buffer)
                yield values


def _deflated(path: Path) -> int:
    made, n_bytes = zlib.compressobj(LEVEL), 0
    with path.open("rb") as opened:
        while part := opened.read(AT_ONCE):
            n_bytes += len(made.compress(part))
    return n_bytes + len(made.flush())
