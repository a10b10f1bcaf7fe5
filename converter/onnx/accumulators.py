"""Which instruction sets a file's int8 products are exact on, read from the weights of the file itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.onnx.rewrites.integer_products import MAX_PAIR, largest_pair_sum

if TYPE_CHECKING:
    import onnx_ir as ir

EXACT = ("x86 AVX-512 VNNI", "x86 AVX-VNNI", "ARM NEON")
"""Sum four products in 32 bits at once: nothing can saturate."""
SATURATING = ("x86 AVX2", "x86 AVX-512 without VNNI")
"""Add two neighbouring products in 16 bits first (`vpmaddubsw`)."""
PRODUCTS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearMatMul", "DequantizeLinear")


def instruction_sets(*paths: Path) -> dict[str, Any]:
    """Return where the int8 products of `paths` give the exact sums, and what that rests on."""
    from converter.onnx.read import read_onnx

    sums = [largest_pair_sum(array) for path in paths for array in _weights(read_onnx(path))]
    if not sums:
        return {
            "safe": [*EXACT, *SATURATING],
            "int8_products": 0,
            "proof": "no matrix product has int8 weights with one scale an output",
        }
    worst = max(sums)
    if worst <= MAX_PAIR:
        safe = [*EXACT, *SATURATING]
        proof = (
            f"two neighbouring weights of one sign sum up to {worst} at most: times 255 that is {255 * worst}, and 16 "
            "signed bits hold 32767"
        )
    else:
        safe = [*EXACT]
        proof = f"two neighbouring weights of one sign sum up to {worst}: times 255 that overflows 16 signed bits"
    return {"safe": safe, "int8_products": len(sums), "largest_weight_pair": worst, "proof": proof}


def _weights(model: "ir.Model") -> "Iterator[np.ndarray]":
    """Yield the int8 matrices `[in, out]` that products multiply by."""
    found = {}
    for node in model.graph:
        if node.op_type not in PRODUCTS or not _feeds_product(node):
            continue
        for given in node.inputs:
            turn = None if given is None else given.producer()
            turned = turn is not None and turn.op_type == "Transpose"
            value = turn.inputs[0] if turn is not None and turned else given
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            if value.const_value.dtype.numpy() == np.int8 and len(value.const_value.shape) == 2:
                found[str(value.name)] = value.const_value, turned
    yield from (np.asarray(t.numpy().T if turned else t.numpy()) for t, turned in found.values())


def _feeds_product(node: "ir.Node") -> bool:
    """Whether a node multiplies, or hands weights to one that does: embedding tables are only looked up."""
    return node.op_type != "DequantizeLinear" or any(u.op_type == "MatMul" for u in node.outputs[0].consumers())
