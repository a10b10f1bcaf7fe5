"""An ONNX file without its weights in memory: each is read from the file when it is asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from converter.bounds.files import UnfitFileError
from converter.errors import StageFailed
from converter.onnx.external import INLINE_BYTES, place_of

if TYPE_CHECKING:
    import onnx_ir as ir

# Field tags of onnx.proto: (number << 3) | wire type.
_MODEL_GRAPH = (7 << 3) | 2
_GRAPH_INITIALIZER = (5 << 3) | 2
_TENSOR_RAW_DATA = (9 << 3) | 2
_FIXED = {1: 8, 5: 4}
"""Bytes of the wire types that have a fixed length."""
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class _Weight:
    head: bytes
    """The TensorProto without its data."""
    offset: int
    length: int
    path: Path
    """The file that holds the data."""


def read_onnx(path: Path) -> "ir.Model":
    """Read a file that `write_onnx` wrote, early exits as a flat graph.

    The file must stay where it is as long as the model is used.
    """
    from converter.onnx.branches import flatten

    proto, weights = read_proto(path)
    flatten(proto.graph)
    return model_of(proto, weights)


def model_of(proto: Any, weights: "list[_Weight]") -> "ir.Model":
    """Return the model of what `read_proto` gave."""
    import onnx_ir as ir

    model = ir.serde.deserialize_model(proto)
    for weight, header in zip(weights, proto.graph.initializer, strict=True):
        if weight.length >= INLINE_BYTES:
            model.graph.initializers[header.name].const_value = _lazy(weight, header)
    return model


def write_view(path: Path) -> Path:
    """Write the graph of `path` beside it, its weights left in `path`; returns the new, small file.

    ONNX Runtime maps such weights instead of copying them: a session takes half the memory.
    """
    view = path.with_name(f"{path.stem}.view.onnx")
    view.write_bytes(read_proto(path)[0].SerializeToString(deterministic=True))
    return view


def read_proto(path: Path) -> "tuple[Any, list[_Weight]]":
    """Return the ModelProto with its large weights named as external data, and where all weights are.

    Raises:
        StageFailed: it is no ONNX file, or a damaged one.

    """
    from google.protobuf.message import DecodeError

    try:
        return _read_proto(path)
    except (DecodeError, UnfitFileError, UnicodeDecodeError) as error:
        raise StageFailed(f"not an ONNX file ({error})", where=str(path)) from None


def _read_proto(path: Path) -> "tuple[Any, list[_Weight]]":
    import onnx

    with path.open("rb") as opened:
        outer, graphs = _split(opened, path.stat().st_size, _MODEL_GRAPH)
        if len(graphs) != 1:
            raise StageFailed("not an ONNX file of this tool", where=str(path))
        opened.seek(graphs[0][0])
        inner, tensors = _split(opened, sum(graphs[0]), _GRAPH_INITIALIZER)
        weights = [_weight(opened, path, offset, length) for offset, length in tensors]
        proto = onnx.ModelProto.FromString(outer)
        proto.graph.ParseFromString(inner)
        for weight in weights:
            made = proto.graph.initializer.add()
            made.ParseFromString(weight.head)
            if weight.length < INLINE_BYTES:
                opened.seek(weight.offset)
                made.raw_data = opened.read(weight.length)
                continue
            if made.external_data:
                continue
            made.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", weight.offset), ("length", weight.length)):
                made.external_data.add(key=key, value=str(value))
    return proto, weights


def hollow_proto(model: "ir.Model", large: int = INLINE_BYTES) -> "tuple[Any, dict[str, ir.TensorProtocol]]":
    """Take the weights of at least `large` bytes out of `model`; returns its ModelProto and them, by name.

    In the proto each is an input of the graph, behind the model's own: tools that copy the whole model, several times,
    then copy little, and treat types and shapes as they would a weight's.
    """
    import onnx_ir as ir

    taken: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= large:
            taken[name] = tensor
            del model.graph.initializers[name]
            value.const_value = None
            model.graph.inputs.append(value)
    return ir.to_proto(model), taken


def lazy_tensor(make: "Callable[[], np.ndarray]", like: "ir.TensorProtocol", name: str) -> "ir.LazyTensor":
    """Return a tensor of the type and shape of `like` that is computed anew whenever it is asked for."""
    import onnx_ir as ir

    return ir.LazyTensor(lambda: ir.Tensor(make()), dtype=like.dtype, shape=ir.Shape(like.shape.numpy()), name=name)


def _lazy(weight: _Weight, header) -> "ir.LazyTensor":  # type: ignore[no-untyped-def]  # noqa: ANN001 - onnx.TensorProto
    import onnx_ir as ir

    kind, shape = ir.DataType(header.data_type), tuple(header.dims)

    def read() -> "ir.TensorProtocol":
        # Read, not mapped: a mapped page counts as this process's memory as long as the map lives.
        values = np.fromfile(weight.path, dtype=kind.numpy(), count=int(np.prod(shape)), offset=weight.offset)
        return ir.Tensor(values.reshape(shape))

    return ir.LazyTensor(read, dtype=kind, shape=ir.Shape(shape), name=header.name)


def _weight(opened: BinaryIO, path: Path, offset: int, length: int) -> _Weight:
    import onnx

    opened.seek(offset)
    head, data = _split(opened, offset + length, _TENSOR_RAW_DATA)
    if not data:
        header = onnx.TensorProto.FromString(head)
        if header.data_location == onnx.TensorProto.EXTERNAL:
            beside, start, size = place_of(header, path)
            return _Weight(head, start, size, beside)
    return _Weight(head, *(data[0] if data else (offset, 0)), path)


def _split(opened: BinaryIO, end: int, wanted: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return all fields up to `end` but those tagged `wanted`, and the offset and length of each of those."""
    rest, found = bytearray(), []
    for tag, raw, offset, length in _fields(opened, end):
        if tag == wanted:
            found.append((offset, length))
            opened.seek(offset + length)
        else:
            rest += raw + opened.read(length)
    return bytes(rest), found


def _fields(opened: BinaryIO, end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield tag, the bytes before the field's content, and the content's offset and length."""
    while opened.tell() < end:
        tag, raw = _varint(opened)
        if tag & 7 == 0:
            _, value = _varint(opened)
            yield tag, raw + value, opened.tell(), 0
        elif tag & 7 == 2:
            length, size = _varint(opened)
            if length > end - opened.tell():
                raise UnfitFileError("a field is longer than the file")
            yield tag, raw + size, opened.tell(), length
        else:
            if tag & 7 not in _FIXED:
                raise UnfitFileError(f"a field of the unknown kind {tag & 7}")
            yield tag, raw, opened.tell(), _FIXED[tag & 7]


def _varint(opened: BinaryIO) -> tuple[int, bytes]:
    raw = bytearray(opened.read(1))
    while raw and raw[-1] & 0x80 and len(raw) < _LONGEST_VARINT:
        more = opened.read(1)
        if not more:
            break
        raw += more
    if not raw or raw[-1] & 0x80:
        raise UnfitFileError("it is cut off")
    return sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(raw)), bytes(raw)
