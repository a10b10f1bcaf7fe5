"""Outlier channels moved from activations into weights, so that one scale fits all channels of an activation.

A few channels of post-LN encoders are ten times larger than the rest; a scale for the whole tensor then leaves the rest
a handful of steps. Each such channel is divided by a factor before the product, and its weight row multiplied by it:
equal in float, far finer in int8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight, later_weight, new_weight, tensor_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.onnx.rewrites.sites import Site


@dataclass(frozen=True)
class Smoothing:
    """The factors `[in]` of products that share an input or a weight, and the share of the squared error they leave."""

    nodes: tuple[str, ...]
    factors: "NDArray[np.float32]"
    error_ratio: float


def apply_smoothing(model: "ir.Model", sites: "Sequence[Site]", plans: Sequence[Smoothing]) -> None:
    """Multiply weight rows by the factors and divide the activations by them, in place."""
    by_node = {n: (i, p.factors) for i, p in enumerate(plans) for n in p.nodes}
    weights: dict[str, ir.Value] = {}
    divided: dict[tuple[int, str], ir.Value] = {}
    for site in sites:
        if str(site.node.name) not in by_node:
            continue
        index, factors = by_node[str(site.node.name)]
        inverse = (1 / factors).astype(np.float32)
        folded = fold_into_values(model.graph, site, inverse)
        _scale_weight(model.graph, site, factors, weights)
        if folded:
            continue
        key = (index, str(site.given.name))
        if key not in divided:
            divided[key] = _divide(model.graph, site, inverse, f"{site.node.name}_factors")
        site.node.replace_input_with(0, divided[key])


def _scale_weight(graph: "ir.Graph", site: "Site", factors: "NDArray[np.float32]", made: "dict[str, ir.Value]") -> None:
    old, name = site.weight, str(site.weight.name)
    if name not in made:
        made[name] = _scaled(graph, old, factors, f"{name}.smoothed")
    site.node.replace_input_with(1, made[name])
    if not old.uses():
        del graph.initializers[name]


def _divide(graph: "ir.Graph", site: "Site", inverse: "NDArray[np.float32]", name: str) -> "ir.Value":
    import onnx_ir as ir

    scaled = ir.node("Mul", [site.given, new_weight(graph, inverse, name)], name=f"{site.node.name}_smooth")
    scaled.outputs[0].name = f"{site.node.outputs[0].name}_smooth"
    graph.insert_before(site.node, scaled)
    return scaled.outputs[0]


def _times(tensor: "ir.TensorProtocol", factors: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return np.asarray(tensor.numpy() * factors)


def folds_into_values(site: "Site") -> bool:
    """Whether factors of the product's input fold away: it is fused attention's, whose values serve it alone."""
    return _value_projection(site) is not None


def fold_into_values(graph: "ir.Graph", site: "Site", factors: "NDArray[np.float32]") -> bool:
    """Multiply the output of fused attention by `factors` in its value projection: it mixes tokens, not channels.

    Returns whether it was possible.
    """
    found = _value_projection(site)
    if found is None:
        return False
    product, add, weight, bias, start = found
    columns = np.ones(array_of(bias).shape, dtype=np.float32)
    columns[start : start + len(factors)] = factors
    for node, old in ((product, weight), (add, bias)):
        tensor, name = tensor_of(old), f"{old.name}.folded"
        made = later_weight(graph, partial(_times, tensor, columns), tensor.dtype, tuple(tensor.shape.numpy()), name)
        node.replace_input_with(next(i for i, v in enumerate(node.inputs) if v is old), made)
        del graph.initializers[str(old.name)]
    return True


def _value_projection(site: "Site") -> "tuple[ir.Node, ir.Node, ir.Value, ir.Value, int] | None":
    """Return product, bias addition, weight, bias and first column of what makes the values of a fused attention."""
    attention = site.given.producer()
    if attention is None or attention.op_type != "MultiHeadAttention" or len(site.given.uses()) != 1:
        return None
    value = attention.inputs[2]
    if value is None or len(attention.outputs) > 1 or value.is_graph_output():
        # A cache holds these values: it stays what it was.
        return None
    split = value.producer()
    add = split.inputs[0].producer() if split is not None and split.op_type == "Split" and split.inputs[0] else None
    product = next((v.producer() for v in add.inputs if v and v.producer()), None) if add is not None else None
    if split is None or add is None or product is None or product.op_type != "MatMul":
        return None
    bias = next((v for v in add.inputs if is_weight(v, rank=1)), None)
    weight = product.inputs[1]
    if bias is None or weight is None or not is_weight(weight, rank=2):
        return None
    if len(bias.uses()) != 1 or len(weight.uses()) != 1:
        return None
    index = next(i for i, v in enumerate(split.outputs) if v is value)
    return product, add, weight, bias, int(array_of(split.inputs[1])[:index].sum())


def _scaled(graph: "ir.Graph", weight: "ir.Value", factors: "NDArray[np.float32]", name: str) -> "ir.Value":
    """Add the weight with its rows multiplied, computed when it is written: all at once would be the model again."""
    import onnx_ir as ir

    from converter.onnx.read import lazy_tensor

    tensor = weight.const_value
    assert tensor is not None
    made = ir.Value(name=name, const_value=lazy_tensor(lambda: tensor.numpy() * factors[:, None], tensor, name))
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.shape.numpy())
    graph.register_initializer(made)
    return made
