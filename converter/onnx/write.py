"""An ONNX model to a file, one weight at a time: serializing it at once would hold all weights twice more."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import ResourceLimit
from converter.onnx.external import data_files, write_beside
from converter.resources import PagesRead

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_FILE_BYTES = 2**31 - 1
"""What protobuf parsers take."""

# Field tags of onnx.proto: (number << 3) | 2 for what has a length.
_MODEL_GRAPH = (7 << 3) | 2
_GRAPH_INITIALIZER = (5 << 3) | 2
_TENSOR_RAW_DATA = (9 << 3) | 2


def write_onnx(model: "ir.Model", path: Path) -> None:
    """Write `model` with its weights inside, or beside it where the file would exceed 2 GB, which no client loads.

    The same model gives the same bytes.

    Raises:
        ResourceLimit: the graph itself exceeds 2 GB.

    """
    import onnx_ir as ir

    weights = [v for v in model.graph.initializers.values() if v.const_value is not None]
    skeleton = _skeleton(model)
    graph = skeleton.graph.SerializeToString(deterministic=True)
    skeleton.ClearField("graph")
    heads = [_tensor_head(v) for v in weights]
    lengths = [len(h) + v.const_value.nbytes for h, v in zip(heads, weights, strict=True) if v.const_value is not None]
    size = len(graph) + sum(len(_field(_GRAPH_INITIALIZER, n)) + n for n in lengths)
    for old in data_files(path):
        old.unlink()
    if size > MAX_FILE_BYTES:
        if len(graph) > MAX_FILE_BYTES:
            raise ResourceLimit(f"the graph alone has {len(graph) / 2**30:.1f} GiB; one file can hold 2")
        write_beside(_skeleton(model), weights, path, MAX_FILE_BYTES)
        return
    pages = PagesRead()
    with path.open("wb") as opened:
        opened.write(skeleton.SerializeToString(deterministic=True))
        opened.write(_field(_MODEL_GRAPH, size))
        opened.write(graph)
        for value, head, length in zip(weights, heads, lengths, strict=True):
            assert isinstance(value.const_value, ir.TensorProtocol)
            opened.write(_field(_GRAPH_INITIALIZER, length))
            opened.write(head)
            # The layout of raw_data is little-endian; so is every machine that this runs on.
            opened.write(np.ascontiguousarray(value.const_value.numpy()).reshape(-1).view(np.uint8).data)
            pages.add(value.const_value.nbytes)


def _skeleton(model: "ir.Model"):  # type: ignore[no-untyped-def]  # noqa: ANN202 - onnx.ModelProto
    """Return the model's proto without its weights; they are back in `model` afterwards."""
    import onnx_ir as ir

    weights = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        return ir.serde.serialize_model(model)
    finally:
        model.graph.initializers.update(weights)


def _tensor_head(value: "ir.Value") -> bytes:
    """Return all of a TensorProto up to the bytes of its raw data."""
    import onnx

    tensor = value.const_value
    assert tensor is not None
    head = onnx.TensorProto(name=value.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    return bytes(head.SerializeToString(deterministic=True)) + _field(_TENSOR_RAW_DATA, tensor.nbytes)


def _field(tag: int, length: int) -> bytes:
    return bytes([tag]) + _varint(length)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
