"""The weights of a TFLite file's linear layers, as they are stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converter.tflite.file import code_of, constant, inputs_of, shared_flat


def product_weights(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the matrix of every linear layer once, those of 4 bits left out: they are packed."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    model, done = shared_flat(path), set()
    for graph in model.subgraphs:
        for operation in graph.operators:
            if code_of(model, operation) != BuiltinOperator.FULLY_CONNECTED:
                continue
            tensor = graph.tensors[inputs_of(operation)[1]]
            values = constant(model, tensor)
            if values is not None and tensor.buffer not in done:
                done.add(tensor.buffer)
                yield values
