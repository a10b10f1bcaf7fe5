"""Products in int8, written as the one operator that ONNX Runtime's kernel is.

`QuantizeLinear` (unsigned 8 bits, one fixed scale a tensor; `DynamicQuantizeLinear` where it is taken at run time) and
`com.microsoft.MatMulIntegerToFloat` (signed 8-bit weights, a scale per output, bias inside). A QDQ file says the same
in four nodes and leaves it to the runtime to see it.

Weights are bounded so that no CPU saturates: without VNNI, x86 multiplies `u8 × s8` in pairs of neighbouring inputs and
adds the two products in 16 bits (`vpmaddubsw`); beyond 32767 the sum is cut and the answer is another one. A pair of
weights of one sign therefore never exceeds 128 in sum, which 255 × 128 = 32640 proves, whatever the activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.attention import DOMAIN
from converter.onnx.rewrites.projections import array_of, bias_of, later_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.onnx.rewrites.sites import Site

MAX_PAIR = 128
"""Largest sum of two neighbouring weights of one sign: 255 times it still fits 16 signed bits."""


@dataclass(frozen=True)
class IntegerWeights:
    """int8 weights `[in, out]` and their scales `[out]`."""

    values: "NDArray[np.int8]"
    scales: "NDArray[np.float32]"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns


@dataclass(frozen=True)
class IntegerFile:
    """`IntegerWeights` whose values lie in a file of their own: those of a whole model would fill the memory."""

    path: Path
    shape: tuple[int, int]
    scales: "NDArray[np.float32]"

    @classmethod
    def of(cls, made: IntegerWeights, path: Path) -> "IntegerFile":
        """Write the values to `path`, which must stay as long as they are asked for."""
        # Not by `tofile`, whose error does not say that the disk is full.
        path.write_bytes(np.ascontiguousarray(made.values).data)
        rows, columns = made.values.shape
        return cls(path, (rows, columns), made.scales)

    @property
    def values(self) -> "NDArray[np.int8]":
        """The weights `[in, out]`, read whenever they are asked for."""
        return np.fromfile(self.path, dtype=np.int8).reshape(self.shape)


Integers = IntegerWeights | IntegerFile


def round_weights(weight: "NDArray[np.float32]", *, bounded: bool = True) -> IntegerWeights:
    """Round `[in, out]` weights to int8, symmetric, one scale per output; `bounded`: no pair sum above `MAX_PAIR`."""
    largest = np.abs(weight).max(axis=0) / 127
    if bounded:
        # Rounding can add half a step to each of the two, so one step is kept free.
        largest = np.maximum(largest, _pair_sums(weight).max(axis=0, initial=0.0) / (MAX_PAIR - 1))
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
    values = np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)
    return IntegerWeights(values, scales)


def largest_pair_sum(values: "NDArray[np.int8]") -> int:
    """Return the largest sum of two neighbouring inputs' weights of one sign, over all outputs."""
    return int(_pair_sums(values.astype(np.int32)).max(initial=0))


def _pair_sums(weight: "NDArray[np.float32] | NDArray[np.int32]") -> "NDArray[np.float32]":
    """Return, per pair of rows (2i, 2i + 1) and sign, the sum that a saturating kernel would form."""
    even = weight if len(weight) % 2 == 0 else np.concatenate([weight, np.zeros_like(weight[:1])])
    pairs = even.reshape(-1, 2, weight.shape[1])
    up, down = np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1)
    return np.maximum(up, down)


def quantize_products(
    model: "ir.Model",
    sites: "Sequence[Site]",
    ranges: Mapping[str, tuple[float, float]] | None,
    *,
    bounded: bool = True,
    rounded: "Mapping[str, Integers] | None" = None,
    shifts: "Mapping[str, NDArray[np.float32]] | None" = None,
) -> int:
    """Rewrite every site in place; returns the largest pair sum of all.

    `ranges` are those of a site's input, by name; None: each is measured at run time, over the whole batch. `rounded`
    holds weights that are rounded already, by name; `shifts` what is added to a product's bias, by its node's name.
    """
    inputs: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}
    weights: dict[str, tuple[ir.Value, ir.Value]] = {}
    worst = 0
    # Named before anything changes: the input of one product can be the output of another (ALBERT's embeddings).
    for site, name in [(s, str(s.given.name)) for s in sites]:
        if name not in inputs:
            inputs[name] = quantize_input(model.graph, site, ranges[name] if ranges is not None else None)
        key = str(site.weight.name)
        if key not in weights:
            known = rounded.get(key) if rounded is not None else None
            made = round_weights(array_of(site.weight), bounded=bounded) if known is None else known
            worst = max(worst, largest_pair_sum(made.values))
            weights[key] = (
                new_integers(model.graph, made, f"{key}.int8"),
                new_weight(model.graph, made.scales, f"{key}.scales"),
            )
        shift = shifts.get(str(site.node.name)) if shifts is not None else None
        put_integer_product(model.graph, site, inputs[name], weights[key], shift)
    model.opset_imports[DOMAIN] = 1
    return worst


def new_integers(graph: "ir.Graph", made: Integers, name: str) -> "ir.Value":
    """Add the values of a weight to `graph`, read when they are written."""
    import onnx_ir as ir

    return later_weight(graph, lambda: made.values, ir.DataType.INT8, made.shape, name)


def step_of(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point that spread 256 unsigned steps over `[low, high]`, zero included exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255, 1e-9))
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def quantize_input(
    graph: "ir.Graph", site: "Site", given: tuple[float, float] | None
) -> "tuple[ir.Value, ir.Value, ir.Value]":
    """Return what a product reads in 8 bits, with scale and zero point: over the range `given`, or measured."""
    import onnx_ir as ir

    name = str(site.given.name)
    if given is None:
        measured = ir.node("DynamicQuantizeLinear", [site.given], num_outputs=3, name=f"{name}_quantize")
        for value, part in zip(measured.outputs, ("int8", "scale", "zero"), strict=True):
            value.name = f"{name}_{part}"
        graph.insert_before(site.node, measured)
        return measured.outputs[0], measured.outputs[1], measured.outputs[2]
    scale, zero = step_of(*given)
    scale_value = new_weight(graph, np.array(scale), f"{name}.scale")
    zero_value = new_weight(graph, np.array(zero), f"{name}.zero")
    node = ir.node("QuantizeLinear", [site.given, scale_value, zero_value], name=f"{name}_quantize")
    node.outputs[0].name = f"{name}_int8"
    graph.insert_before(site.node, node)
    return node.outputs[0], scale_value, zero_value


def put_integer_product(
    graph: "ir.Graph",
    site: "Site",
    given: "tuple[ir.Value, ir.Value, ir.Value]",
    weight: "tuple[ir.Value, ir.Value]",
    shift: "NDArray[np.float32] | None",
) -> None:
    """Put one integer product in the place of `MatMul` and, where one follows, of its bias `Add`."""
    import onnx_ir as ir

    add, bias = bias_of(site.node)
    if shift is not None:
        total = shift if bias is None else array_of(bias) + shift
        bias = new_weight(graph, total.astype(np.float32), f"{site.node.name}.bias")
    last = add if add is not None else site.node
    name = str(last.outputs[0].name)
    product = ir.node(
        "MatMulIntegerToFloat",
        [given[0], weight[0], given[1], weight[1], given[2], None, *([bias] if bias is not None else [])],
        domain=DOMAIN,
        name=f"{name}_integer",
    )
    product.outputs[0].name = f"{name}_integer"
    product.outputs[0].type, product.outputs[0].shape = last.outputs[0].type, last.outputs[0].shape
    graph.insert_before(last, product)
    ir.convenience.replace_all_uses_with(last.outputs[0], product.outputs[0], replace_graph_outputs=True)
    if product.outputs[0].is_graph_output():
        product.outputs[0].name, last.outputs[0].name = name, None
    graph.remove([add, site.node] if add is not None else [site.node], safe=True)
