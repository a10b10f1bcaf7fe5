"""The parameters of a TFLite file in float32, whatever they are stored as."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import bytes_of, code_of, constant, inputs_of, outputs_of, shape_of, shared_flat, text
from converter.validate.stored import Kind, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model, Tensor


def stored_parameters(path: Path, *, vectors_only: bool = False) -> Iterator[Stored]:
    """Yield every matrix of linear layers, every table that rows are looked up in, and every vector; each once.

    `vectors_only`: matrices and tables, which are large, are not read.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator as Op

    model, done = shared_flat(path), set()
    for graph in model.subgraphs:
        makers = {t: op for op in graph.operators for t in outputs_of(op)}
        scaled = {} if vectors_only else _scaled_tables(model, graph)
        for op in () if vectors_only else graph.operators:
            code, given = code_of(model, op), inputs_of(op)
            if code not in (Op.FULLY_CONNECTED, Op.EMBEDDING_LOOKUP, Op.GATHER):
                continue
            number = given[0] if code == Op.GATHER else given[1]
            tensor = graph.tensors[number]
            made_by = makers.get(number)
            if made_by is not None and code_of(model, made_by) == Op.DEQUANTIZE:
                tensor = graph.tensors[inputs_of(made_by)[0]]
            found = values_of(model, graph, tensor)
            if found is None or found[0].ndim != 2 or min(found[0].shape) < 2 or (tensor.buffer, code) in done:
                continue
            done.add((tensor.buffer, code))
            values, bits = found
            if code == Op.FULLY_CONNECTED:
                yield Stored(text(tensor.name), "product", values.T, bits)
            else:
                scale = scaled.get(outputs_of(op)[0])
                yield Stored(text(tensor.name), "table", values if scale is None else values * scale, bits)
        for tensor, kind in _vectors(model, graph):
            if (tensor.buffer, -1) not in done:
                done.add((tensor.buffer, -1))
                vector = values_of(model, graph, tensor)
                if vector is not None:
                    yield Stored(text(tensor.name), kind, vector[0].ravel(), vector[1])


def _vectors(model: "Model", graph: "Graph") -> "Iterator[tuple[Tensor, Kind]]":
    """Yield tensors of one dimension; whole numbers without steps have no values in `values_of`."""
    from ai_edge_litert.schema_py_generated import TensorType

    kinds: dict[int, Kind] = {TensorType.FLOAT32: "vector", TensorType.FLOAT16: "vector", TensorType.INT32: "bias"}
    for tensor in _not_looked_up(model, graph):
        size = max(shape_of(tensor), default=0)
        if tensor.type in kinds and size > 1 and size == int(np.prod(shape_of(tensor))):
            yield tensor, kinds[tensor.type]


def _not_looked_up(model: "Model", graph: "Graph") -> "Iterator[Tensor]":
    """Yield tensors that are no table: the scales of rows are one, `[rows, 1]`, and are stored in another precision."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator as Op

    place = {Op.EMBEDDING_LOOKUP: 1, Op.GATHER: 0}
    tables = {inputs_of(op)[place[code]] for op in graph.operators if (code := code_of(model, op)) in place}
    yield from (tensor for i, tensor in enumerate(graph.tensors) if i not in tables)


def _scaled_tables(model: "Model", graph: "Graph") -> "dict[int, NDArray[np.float32]]":
    """Return, by the tensor that a look-up makes, the scales `[rows, 1]` that it is multiplied by."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator as Op

    looked = {
        outputs_of(op)[0]: inputs_of(op)[1] for op in graph.operators if code_of(model, op) == Op.EMBEDDING_LOOKUP
    }
    made = {}
    for op in graph.operators:
        if code_of(model, op) != Op.MUL or not set(inputs_of(op)) <= looked.keys():
            continue
        rows, scale = inputs_of(op)
        found = values_of(model, graph, graph.tensors[looked[scale]])
        if found is not None and found[0].shape[1] == 1:
            made[rows] = found[0]
    return made


def values_of(model: "Model", graph: "Graph", tensor: "Tensor") -> "tuple[NDArray[np.float32], int] | None":
    """Return a constant in float32 and the bits a value takes in the file; None where it is computed."""
    from ai_edge_litert.schema_py_generated import TensorType

    held: np.ndarray[Any, Any] | None
    if tensor.type == TensorType.FLOAT16:
        half = bytes_of(model, tensor.buffer).view(np.float16)
        held, bits = half.reshape(shape_of(tensor)) if len(half) else None, 16
    elif tensor.type == TensorType.INT4:
        packed = bytes_of(model, tensor.buffer)
        pairs = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)[: int(np.prod(shape_of(tensor)))]
        held, bits = np.where(pairs > 7, pairs.astype(np.int16) - 16, pairs).astype(np.int8), 4
        held = held.reshape(shape_of(tensor)) if len(packed) else None
    else:
        held = constant(model, tensor)
        bits = 0 if held is None else 8 * held.dtype.itemsize
    if held is None:
        return None
    quantization = tensor.quantization
    if not np.issubdtype(held.dtype, np.integer):
        return np.asarray(held, dtype=np.float32), bits
    if quantization is not None and quantization.details is not None and hasattr(quantization.details, "blockSize"):
        return _from_blocks(model, graph, held, quantization.details), bits
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    return _dequantized(held, quantization), bits


def _from_blocks(model: "Model", graph: "Graph", held: "np.ndarray[Any, Any]", details: Any) -> "NDArray[np.float32]":
    """Multiply `[out, in]` by the scales `[out, blocks]` of blocks of inputs."""
    tensor = graph.tensors[int(details.scales)]
    scales = bytes_of(model, tensor.buffer).view(np.float16).reshape(shape_of(tensor)).astype(np.float32)
    return np.asarray(held * np.repeat(scales, int(details.blockSize), axis=1), dtype=np.float32)


def _dequantized(held: "np.ndarray[Any, Any]", quantization: Any) -> "NDArray[np.float32]":
    scale = np.asarray(quantization.scale, dtype=np.float32)
    zero = np.asarray(quantization.zeroPoint if quantization.zeroPoint is not None else [0], dtype=np.float32)
    shape = [1] * held.ndim
    if len(scale) > 1:
        shape[int(quantization.quantizedDimension)] = -1
    zero = zero.reshape(shape) if len(zero) == len(scale) else zero[:1].reshape([1] * held.ndim)
    return np.asarray((held.astype(np.float32) - zero) * scale.reshape(shape), dtype=np.float32)
