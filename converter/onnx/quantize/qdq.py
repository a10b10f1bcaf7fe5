"""Static int8 as standard ONNX: `QuantizeLinear` and `DequantizeLinear` around the products, for any runtime."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.integer_products import Integers, largest_pair_sum, new_integers, round_weights, step_of
from converter.onnx.rewrites.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.onnx.rewrites.sites import Site


def write_qdq(
    model: "ir.Model",
    sites: "Sequence[Site]",
    ranges: Mapping[str, tuple[float, float]],
    *,
    bounded: bool = True,
    rounded: Mapping[str, Integers],
    shifts: "Mapping[str, NDArray[np.float32]]",
) -> int:
    """Put quantized inputs and weights in front of every product, in place; returns the largest pair sum of all."""
    graph, worst = model.graph, 0
    inputs: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    for site, name in [(s, str(s.given.name)) for s in sites]:
        key, old = str(site.weight.name), site.weight
        if name not in inputs:
            inputs[name] = _quantized_input(graph, site, ranges[name])
        if key not in weights:
            made = rounded[key] if key in rounded else round_weights(array_of(old), bounded=bounded)
            worst = max(worst, largest_pair_sum(made.values))
            weights[key] = _quantized_weight(graph, made, key)
        site.node.replace_input_with(0, inputs[name])
        site.node.replace_input_with(1, weights[key])
        if not old.uses():
            del graph.initializers[key]
        if str(site.node.name) in shifts:
            _shift_bias(graph, site, shifts[str(site.node.name)])
    return worst


def _quantized_input(graph: "ir.Graph", site: "Site", given: tuple[float, float]) -> "ir.Value":
    import onnx_ir as ir

    name = str(site.given.name)
    scale, zero = step_of(*given)
    constants = [new_weight(graph, np.array(scale), f"{name}.scale"), new_weight(graph, np.array(zero), f"{name}.zero")]
    quantize = ir.node("QuantizeLinear", [site.given, *constants], name=f"{name}_quantize")
    back = ir.node("DequantizeLinear", [quantize.outputs[0], *constants], name=f"{name}_dequantize")
    quantize.outputs[0].name, back.outputs[0].name = f"{name}_int8", f"{name}_float"
    graph.insert_before(site.node, [quantize, back])
    return back.outputs[0]


def _quantized_weight(graph: "ir.Graph", made: Integers, name: str) -> "ir.Value":
    import onnx_ir as ir

    parts = ((made.scales, "scales"), (np.zeros(len(made.scales), dtype=np.int8), "zeros"))
    constants = [new_integers(graph, made, f"{name}.int8")]
    constants += [new_weight(graph, array, f"{name}.{suffix}") for array, suffix in parts]
    back = ir.node("DequantizeLinear", constants, {"axis": 1}, name=f"{name}_dequantize")
    back.outputs[0].name = f"{name}_float"
    graph.insert_before(graph[0], back)
    return back.outputs[0]


def _shift_bias(graph: "ir.Graph", site: "Site", shift: "NDArray[np.float32]") -> None:
    """Raise the bias behind a product; without a bias there is no node to spend on it."""
    users = site.node.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Add":
        return
    index = next((i for i, v in enumerate(users[0].inputs) if is_weight(v, rank=1)), None)
    if index is None:
        return
    bias = users[0].inputs[index]
    users[0].replace_input_with(index, new_weight(graph, array_of(bias) + shift, f"{site.node.name}.bias"))
