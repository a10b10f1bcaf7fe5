"""Where int8 goes: the large products by constant weights. Everything else stays float."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.onnx.rewrites.projections import is_weight

if TYPE_CHECKING:
    import onnx_ir as ir

MIN_OUTPUTS = 32
"""A narrower product is a classifier: it costs nothing in float, and its rounding goes straight to the answer."""


@dataclass(frozen=True)
class Site:
    """A `MatMul` of an activation `[..., in]` by a weight `[in, out]`."""

    node: "ir.Node"

    @property
    def given(self) -> "ir.Value":
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weight(self) -> "ir.Value":
        value = self.node.inputs[1]
        assert value is not None
        return value


def quantizable(model: "ir.Model") -> Iterator[Site]:
    """Yield the products worth int8, in graph order."""
    for node in model.graph:
        if node.op_type != "MatMul" or not is_weight(node.inputs[1], rank=2) or is_weight(node.inputs[0]):
            continue
        site = Site(node)
        assert site.weight.const_value is not None
        if site.weight.const_value.shape.numpy()[1] >= MIN_OUTPUTS:
            yield site
