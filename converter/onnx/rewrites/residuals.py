"""Residual additions written as `Sum`.

ONNX Runtime fuses `Add` and `LayerNormalization` into `SkipLayerNormalization`, whose CPU kernel is several times
slower than the two together (200 against 30 µs on a MiniLM layer). It does not look for `Sum`, which computes the same.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def residuals_as_sums(model: "ir.Model") -> int:
    """Turn each `Add` of two computed values that a `LayerNormalization` reads into a `Sum`; returns how many."""
    made = 0
    for node in model.graph:
        if node.op_type != "Add" or any(v is None or v.const_value is not None for v in node.inputs):
            continue
        if any(user.op_type == "LayerNormalization" for user in node.outputs[0].consumers()):
            node.op_type = "Sum"
            made += 1
    return made
