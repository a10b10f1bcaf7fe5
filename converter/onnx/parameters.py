"""The parameters of an ONNX file in float32, whatever they are stored as."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.validate.stored import Stored

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

BLOCKS = "MatMulNBits"
PRODUCTS = {
    "MatMul": 1,
    "Gemm": 1,
    "MatMulIntegerToFloat": 1,
    "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1,
    BLOCKS: 1,
}
"""Operators that multiply by a matrix, and which of their inputs it is."""
SCALES = {"MatMulIntegerToFloat": 3, "DynamicQuantizeMatMul": 2}
"""Where such an operator reads the scales of its integer matrix."""
SCALES_OF_BLOCKS = 2
BYTE = 8
BEFORE = ("Cast", "Transpose", "DequantizeLinear", "Reshape")
"""What may stand between a stored weight and who reads it."""
FOLLOWED = ("Cast", "DequantizeLinear", "Mul")
"""What brings a looked-up row of a quantized table back to float."""


def stored_parameters(path: Path, *, vectors_only: bool = False) -> Iterator[Stored]:
    """Yield every matrix that products read, every table that rows are looked up in, and every vector; each once.

    `vectors_only`: matrices and tables, which are large, are not read.
    """
    from converter.onnx.read import read_onnx

    model = read_onnx(path)
    done: set[tuple[str, str]] = set()
    for node in () if vectors_only else model.graph:
        read = _READ.get(node.op_type)
        # A table that is the output layer too is both.
        if read is None or (key := (node.op_type, _stored_name(node))) in done:
            continue
        done.add(key)
        found = read(node)
        if found is not None:
            yield found
            del found  # before the next one is read
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and str(tensor.dtype) in ("FLOAT", "FLOAT16") and _is_vector(tensor.shape.numpy()):
            yield Stored(str(name), "vector", _wide(tensor.numpy()).ravel(), _bits(tensor))


def _is_vector(shape: "Sequence[int]") -> bool:
    return len(shape) > 0 and max(shape) == int(np.prod(shape)) and max(shape) > 1


def _wide(values: "np.ndarray[Any, Any]") -> "NDArray[np.float32]":
    return np.asarray(values, dtype=np.float32)


def _bits(tensor: "ir.TensorProtocol") -> int:
    return round(tensor.dtype.itemsize * 8)


def _constant(value: "ir.Value | None") -> "tuple[np.ndarray[Any, Any], int, str] | None":
    """Return a constant's values, bits and name, through casts, transpositions and dequantization; else None."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy(), _bits(value.const_value), str(value.name)
    node = value.producer()
    found = _constant(node.inputs[0]) if node is not None and node.op_type in BEFORE else None
    if node is None or found is None:
        return None
    values, bits, name = found
    if node.op_type == "Transpose":
        values = values.T
    elif node.op_type == "Reshape":
        target = _constant(node.inputs[1])
        if target is None:
            return None
        values = values.reshape(target[0])
    elif node.op_type == "DequantizeLinear":
        values = _dequantized(node, values)
    return values, bits, name


def _dequantized(node: "ir.Node", values: "np.ndarray[Any, Any]") -> "NDArray[np.float32]":
    scale, zero = (_constant(v) for v in (*node.inputs, None)[1:3])
    assert scale is not None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    shape = [1] * values.ndim
    if scale[0].size > 1:
        shape[axis % values.ndim] = -1
    offset = np.zeros(1) if zero is None else zero[0]
    return _wide((values.astype(np.float32) - offset.reshape(shape).astype(np.float32)) * scale[0].reshape(shape))


def _product(node: "ir.Node") -> Stored | None:
    found = _constant(node.inputs[PRODUCTS[node.op_type]])
    if found is None or found[0].ndim != 2:
        return None
    values, bits, name = found
    if node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int():
        values = values.T
    if np.issubdtype(values.dtype, np.integer):
        scale = _constant(node.inputs[SCALES[node.op_type]]) if node.op_type in SCALES else _scale_behind(node)
        if scale is None:
            return None
        values = values.astype(np.float32) * scale[0].reshape(1, -1)
    return Stored(name, "product", _wide(values), bits)


def _scale_behind(node: "ir.Node") -> "tuple[np.ndarray[Any, Any], int, str] | None":
    """Return the scales that the result of an integer product is multiplied by."""
    for first in node.outputs[0].consumers():
        for second in (first, *first.outputs[0].consumers()):
            for value in second.inputs:
                made = value.producer() if value is not None else None
                for candidate in (value, *(made.inputs if made is not None and made.op_type == "Mul" else ())):
                    found = None if candidate is None or candidate.const_value is None else _constant(candidate)
                    if second.op_type == "Mul" and found is not None and found[0].dtype == np.float32:
                        return found
    return None


def _blocks(node: "ir.Node", weights: "ir.Value | None") -> "tuple[NDArray[np.float32], int, int] | None":
    """Return weights in blocks as `[rows, blocks * block]`, their bits and the block.

    None where each block has a zero point of its own, which this tool never writes.
    """
    stored, scales = _constant(weights), _constant(node.inputs[SCALES_OF_BLOCKS])
    if stored is None or scales is None or any(v is not None for v in node.inputs[3:4]):
        return None
    rows = len(stored[0])
    bits, block = node.attributes["bits"].as_int(), node.attributes["block_size"].as_int()
    packed = stored[0].reshape(rows, -1, block * bits // BYTE)
    if bits < BYTE:
        packed = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(rows, -1, block)
    values = packed.astype(np.float32)
    values -= np.float32(1 << (bits - 1))
    values *= scales[0].reshape(rows, -1, 1)
    return values.reshape(rows, -1), bits, block


def _block_product(node: "ir.Node") -> Stored | None:
    found = _blocks(node, node.inputs[1])
    if found is None:
        return None
    values, bits, block = found
    return Stored(_stored_name(node), "product", values[:, : node.attributes["K"].as_int()].T, bits, block)


def _block_table(node: "ir.Node") -> Stored | None:
    found = _blocks(node, node.inputs[0])
    return None if found is None else Stored(_stored_name(node), "table", *found)


def _stored_name(node: "ir.Node") -> str:
    """Return the name of the constant that a product or a look-up reads."""
    value = node.inputs[PRODUCTS.get(node.op_type, 0)]
    while value is not None and value.const_value is None and (maker := value.producer()) is not None:
        value = maker.inputs[0] if maker.op_type in BEFORE else None
    return f"of {node.name}" if value is None else str(value.name)


def _table(node: "ir.Node") -> Stored | None:
    """Return the table of a look-up; of one that is stored in integers, with the scales that are looked up beside."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    found = _constant(node.inputs[0])
    if found is None or axis != 0 or found[0].ndim != 2 or found[0].shape[1] < 2:
        return None
    values, bits, name = found
    wide, whole = _wide(values), not np.issubdtype(values.dtype, np.integer)
    del found, values  # a table is large
    made = wide if whole else _rows_of(node, wide)
    return None if made is None else Stored(name, "table", made, bits)


def _rows_of(node: "ir.Node", rows: "NDArray[np.float32]") -> "NDArray[np.float32] | None":
    """Follow looked-up integers to the product with their scales; returns all rows as it would make them."""
    value = node.outputs[0]
    while len(users := list(value.consumers())) == 1 and users[0].op_type in FOLLOWED:
        user = users[0]
        if user.op_type == "Mul":
            other = next((v for v in user.inputs if v is not value), None)
            scale = _looked_up(other)
            if scale is not None:
                rows *= scale  # in place: a table is the largest matrix that many models have
            return None if scale is None else rows
        if user.op_type == "DequantizeLinear":
            rows = _dequantized(user, rows)
        value = user.outputs[0]
    return None


def _looked_up(value: "ir.Value | None") -> "NDArray[np.float32] | None":
    """Return what a value is for every row of its table: a constant, or a look-up and what follows it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type == "Gather":
        found = _constant(value if node is None else node.inputs[0])
        return None if found is None else _wide(found[0])
    rows = _looked_up(node.inputs[0]) if node.op_type in ("Cast", "DequantizeLinear") else None
    return _dequantized(node, rows) if rows is not None and node.op_type == "DequantizeLinear" else rows


_READ = dict.fromkeys(PRODUCTS, _product) | {
    BLOCKS: _block_product,
    "Gather": _table,
    "GatherBlockQuantized": _block_table,
}
"""What reads the weight of an operator."""
