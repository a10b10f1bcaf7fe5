"""A TFLite file as objects: read without a copy of its weights, written with everything in it once.

A file as the tools write it repeats, in every signature, each tensor's path through the model (1 MB at four signatures
of MiniLM) and each weight's scales (2.5 MB). Here equal vectors and names are written once, and weights lie behind the
tables, streamed from where they were read.
"""

import copy
import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from converter.resources import LARGE_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model, Operator, Quantization, Signature, Tensor

ALIGNMENT = 64
"""Bytes that weights start at a multiple of: the kernels' widest load."""
SMALL = 64
"""Bytes up to which a constant lies in the tables."""
CONSTANT = 0
"""The buffer that all tensors without data name."""
KEPT = 2
"""Files whose tables are kept: a package's own, and the one that lies beside it."""
_SHARED: "dict[tuple[int, ...], Model]" = {}
_ONE_READS = Lock()


def read_flat(path: Path) -> "Model":
    """Return the `ModelT` of a file; the data of its buffers are views of the file, which must stay in place."""
    from ai_edge_litert.schema_py_generated import Model, ModelT

    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = ModelT.InitFromObj(Model.GetRootAs(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def shared_flat(path: Path) -> "Model":
    """Return what `read_flat` does, once for all who read the same file: nobody may change it.

    A package's file is looked into by half a dozen checks, and its tables take longer to read than most of them. A
    large file is not kept: what was read of it would count as this process's memory.
    """
    told = path.stat()
    if told.st_size > LARGE_BYTES:
        return read_flat(path)
    key = told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
    with _ONE_READS:
        if key not in _SHARED:
            while len(_SHARED) >= KEPT:
                del _SHARED[next(iter(_SHARED))]
            _SHARED[key] = read_flat(path)
        return _SHARED[key]


def write_flat(model: "Model", path: Path, *, inline: bool = False) -> None:
    """Write `model`; its buffers are renumbered: equal ones become one, and those that nothing names are left out.

    `inline`: weights lie in the tables, up to 2 GB, for readers that know nothing else (MediaPipe); else behind them.
    """
    from converter.tflite.builder import packed

    _tidy(model)
    outside = [(b, b.data) for b in model.buffers if b.data is not None and len(b.data) > SMALL and not inline]
    for buffer, content in outside:
        # Numbers that are not zero, since zeros are not stored: the tables are then as long as with the true ones.
        buffer.data, buffer.offset, buffer.size = None, 2, len(content)
    at = len(packed(model))
    for buffer, _ in outside:
        buffer.offset = at = -(-at // ALIGNMENT) * ALIGNMENT
        at += buffer.size
    with path.open("wb") as file:
        file.write(packed(model))
        for buffer, content in outside:
            file.write(b"\0" * (buffer.offset - file.tell()))
            file.write(content.data)
    for buffer, content in outside:
        buffer.data, buffer.offset, buffer.size = content, 0, 0


def add_buffer(model: "Model", values: "np.ndarray[Any, Any]") -> int:
    """Add a constant's bytes; returns its number."""
    from ai_edge_litert.schema_py_generated import BufferT

    model.buffers.append(BufferT(data=np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)))
    return len(model.buffers) - 1


def bytes_of(model: "Model", buffer: int) -> "NDArray[np.uint8]":
    """Return the bytes of a buffer; none where it has none."""
    data = model.buffers[buffer].data
    return np.empty(0, np.uint8) if data is None else data


def constant(model: "Model", tensor: "Tensor") -> "np.ndarray[Any, Any] | None":
    """Return the values of a tensor in its shape; None where it is computed, or of a type that numpy lacks."""
    data = model.buffers[tensor.buffer].data
    kind = _dtypes().get(tensor.type)
    return None if data is None or kind is None else data.view(kind).reshape(shape_of(tensor))


def shape_of(tensor: "Tensor") -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def add_tensor(graph: "Graph", name: str, shape: Iterable[int], kind: int, buffer: int = CONSTANT) -> int:
    """Add a tensor to a subgraph; returns its number."""
    from ai_edge_litert.schema_py_generated import TensorT

    graph.tensors.append(TensorT(np.array(tuple(shape), np.int32), kind, buffer, name, hasRank=True))
    return len(graph.tensors) - 1


def opcode(model: "Model", code: int) -> int:
    """Return the number of a built-in operation in this file, which is added where it is new."""
    from ai_edge_litert.schema_py_generated import OperatorCodeT

    codes = [c.builtinCode for c in model.operatorCodes]
    if code not in codes:
        # Old readers look at the first field, which holds one byte.
        model.operatorCodes.append(OperatorCodeT(min(code, 127), version=1, builtinCode=code))
        return len(codes)
    return int(codes.index(code))


def code_of(model: "Model", operation: "Operator") -> int:
    return int(model.operatorCodes[operation.opcodeIndex].builtinCode)


def is_kind(operation: "Operator | None", name: str, model: "Model") -> "TypeGuard[Operator]":
    """Tell whether an operation, if there is one, is the built-in of that name."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return operation is not None and code_of(model, operation) == getattr(BuiltinOperator, name)


def inputs_of(operation: "Operator") -> list[int]:
    return [] if operation.inputs is None else [int(t) for t in operation.inputs]


def outputs_of(operation: "Operator") -> list[int]:
    return [] if operation.outputs is None else [int(t) for t in operation.outputs]


def scale_tensors(tensor: "Tensor") -> list[int]:
    """Return the tensors that hold the scales of a tensor with one scale a block."""
    details: Any = None if tensor.quantization is None else tensor.quantization.details
    blockwise = type(details).__name__ == "BlockwiseQuantizationT"
    return [int(n) for n in (details.scales, details.zeroPoints) if n > 0] if blockwise else []


def signature_names(path: Path) -> list[str]:
    """Return the names of a file's signatures; nothing else of it is read."""
    from ai_edge_litert.schema_py_generated import Model

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        return [text(model.SignatureDefs(i).SignatureKey()) for i in range(model.SignatureDefsLength())]


def in_blocks(path: Path) -> bool:
    """Tell whether a file has weights with one scale a block."""
    return any(scale_tensors(t) for g in shared_flat(path).subgraphs for t in g.tensors)


def has_four_bits(path: Path) -> bool:
    """Tell whether a file has weights of 4 bits, with one scale a row or a block."""
    from ai_edge_litert.schema_py_generated import TensorType

    tensors = (t for graph in shared_flat(path).subgraphs for t in graph.tensors)
    return any(t.type == TensorType.INT4 or scale_tensors(t) for t in tensors)


def with_scale_tensors(quantization: "Quantization", renumbered: Mapping[int, int]) -> Any:
    """Return a copy whose blocks' scales lie in other tensors."""
    made, details = copy.copy(quantization), copy.copy(quantization.details)
    details.scales = renumbered.get(int(details.scales), details.scales)
    details.zeroPoints = renumbered.get(int(details.zeroPoints), details.zeroPoints)
    made.details = details
    return made


def shorten_names(model: "Model") -> None:
    """Leave of `module.Class_encoder/module.Class_0/…` what a reader looks for: `serving_16/encoder/0/…`.

    Every name is different in the whole file, by which the quantizer knows tensors.
    """
    for graph in model.subgraphs:
        key, seen = text(graph.name), dict[str, int]()
        held = {int(e.tensorIndex): text(e.name) for s in _signatures(model, graph) for e in (*s.inputs, *s.outputs)}
        for i, tensor in enumerate(graph.tensors):
            short = held.get(i) or _short(text(tensor.name))
            seen[short] = seen.get(short, 0) + 1
            tensor.name = f"{key}/{short}" + (f".{seen[short]}" if seen[short] > 1 else "")


def share_names(model: "Model") -> None:
    """Take the signature off every name, so that what is equal in all of them is written once."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = text(tensor.name).removeprefix(f"{text(graph.name)}/")


def text(name: "bytes | str | None") -> str:
    return name.decode() if isinstance(name, bytes) else name or ""


def _short(name: str) -> str:
    parts = (re.sub(r"^.*\.[A-Z][A-Za-z0-9]*_?", "", p) for p in name.split(";", 1)[0].split("/"))
    return "/".join(p for p in parts if p) or "t"


def _signatures(model: "Model", graph: "Graph") -> "list[Signature]":
    number = next(i for i, g in enumerate(model.subgraphs) if g is graph)
    return [s for s in model.signatureDefs or () if s.subgraphIndex == number]


def _tidy(model: "Model") -> None:
    """Drop unused tensors and buffers, and give equal buffers one number."""
    for graph in model.subgraphs:
        _drop_unused(model, graph)
    tensors = [t for g in model.subgraphs for t in g.tensors]
    for tensor in tensors:
        if tensor.quantization is not None:
            # What was measured, not what is used.
            tensor.quantization.min = tensor.quantization.max = None
    known: dict[bytes | int, int] = {}
    kept = [model.buffers[CONSTANT]]
    for holder in (*tensors, *(model.metadata or ())):
        data = model.buffers[holder.buffer].data
        if data is None or not len(data):
            holder.buffer = CONSTANT
            continue
        # A view of the file by its place, which equal numbers share already; a small one by its content.
        key = data.tobytes() if len(data) <= 1 << 20 else int(data.ctypes.data)
        if key not in known:
            known[key] = len(kept)
            kept.append(model.buffers[holder.buffer])
        holder.buffer = known[key]
    model.buffers = kept


def _drop_unused(model: "Model", graph: "Graph") -> None:
    used = {int(t) for t in (*graph.inputs, *graph.outputs)}
    used |= {t for o in graph.operators for t in (*inputs_of(o), *outputs_of(o)) if t >= 0}
    used |= {t for number in used for t in scale_tensors(graph.tensors[number])}
    order = {old: new for new, old in enumerate(sorted(used))}
    renumbered = order | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in order]
    for tensor in graph.tensors:
        if tensor.quantization is not None and scale_tensors(tensor):
            tensor.quantization = with_scale_tensors(tensor.quantization, renumbered)
    for holder in (graph, *graph.operators):
        for side in ("inputs", "outputs"):
            given = getattr(holder, side)
            if given is not None:
                setattr(holder, side, np.array([renumbered[int(t)] for t in given], np.int32))
    for signature in _signatures(model, graph):
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = order[int(entry.tensorIndex)]


def _dtypes() -> dict[int, type[np.generic]]:
    from ai_edge_litert.schema_py_generated import TensorType

    return {
        TensorType.FLOAT32: np.float32,
        TensorType.INT32: np.int32,
        TensorType.INT64: np.int64,
        TensorType.INT8: np.int8,
        TensorType.BOOL: np.bool_,
    }
