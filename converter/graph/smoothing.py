"""Outlier channels moved from activations into weights, so that one scale fits all channels of an activation.

A few channels of post-LN encoders are ten times larger than the rest; a scale for the whole tensor then leaves the rest
a handful of steps. Each such channel is divided by a factor before the product, and its weight row multiplied by it:
equal in float, far finer in int8. The factors are those of Outlier Suppression+ (arXiv 2304.09145),
`max(1, max|x_j|/t)`, with the one threshold t that leaves the least error in the product, searched per weight.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.graph.projections import array_of, is_weight, new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.graph.sites import Site

THRESHOLDS = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
"""Shares of the largest channel that t is tried at."""
WORTH = 0.7
"""An extra multiplication must leave at most this share of the squared error, else the site is left as it is."""
MAX_ROWS = 320
"""Tokens kept per site: enough to rank six thresholds, and bounded."""


@dataclass(frozen=True)
class Smoothing:
    """One weight's factors `[in]`, and the share of the product's squared error that they leave."""

    weight: str
    factors: "NDArray[np.float32]"
    error_ratio: float


def collect_rows(
    stream: "Iterable[Mapping[str, NDArray[np.float32]]]", names: Sequence[str]
) -> "dict[str, NDArray[np.float32]]":
    """Keep the first `MAX_ROWS` tokens of each value, no more than 40 of any one text."""
    kept: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    count = 0
    for values in stream:
        taken = min(40, MAX_ROWS - count, len(values[names[0]]))
        for name in names:
            kept[name].append(values[name][:taken].copy())
        count += taken
        if count >= MAX_ROWS:
            break
    return {name: np.concatenate(rows) for name, rows in kept.items()}


def plan_smoothing(sites: "Sequence[Site]", rows: "Mapping[str, NDArray[np.float32]]") -> list[Smoothing]:
    """Search the factors of every weight; weights that gain too little are left out."""
    users: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        users[str(site.weight.name)].append(site)
    plans = []
    for name, shared in users.items():
        # A weight that several layers share has one row per channel: its factors must suit them all.
        given = np.concatenate([rows[str(s.given.name)] for s in shared])
        plan = _search(name, given, array_of(shared[0].weight))
        if plan is not None and plan.error_ratio <= WORTH:
            plans.append(plan)
    return plans


def apply_smoothing(model: "ir.Model", sites: "Sequence[Site]", plans: Sequence[Smoothing]) -> None:
    """Multiply weight rows by the factors and divide the activations by them, in place."""
    import onnx_ir as ir

    by_weight = {p.weight: p for p in plans}
    made: dict[str, tuple[ir.Value, ir.Value]] = {}
    for site in sites:
        name = str(site.weight.name)
        if name not in by_weight:
            continue
        factors = by_weight[name].factors
        folded = fold_into_values(model.graph, site, (1 / factors).astype(np.float32))
        if name not in made:
            made[name] = (
                _scaled(model.graph, site.weight, factors, f"{name}.smoothed"),
                new_weight(model.graph, (1 / factors).astype(np.float32), f"{name}.factors"),
            )
        weight, inverse = made[name]
        old = site.weight
        site.node.replace_input_with(1, weight)
        if not old.uses():
            del model.graph.initializers[name]
        if folded:
            continue
        scaled = ir.node("Mul", [site.given, inverse], name=f"{site.node.name}_smooth")
        scaled.outputs[0].name = f"{site.node.outputs[0].name}_smooth"
        model.graph.insert_before(site.node, scaled)
        site.node.replace_input_with(0, scaled.outputs[0])
    for _, inverse in made.values():
        if not inverse.uses():
            del model.graph.initializers[str(inverse.name)]


def fold_into_values(graph: "ir.Graph", site: "Site", factors: "NDArray[np.float32]") -> bool:
    """Multiply the output of fused attention by `factors` in its value projection: it mixes tokens, not channels.

    Returns whether it was possible: the projection must serve this attention alone.
    """
    attention = site.given.producer()
    if attention is None or attention.op_type != "MultiHeadAttention" or len(site.given.uses()) != 1:
        return False
    value = attention.inputs[2]
    split = value.producer() if value is not None else None
    add = split.inputs[0].producer() if split is not None and split.op_type == "Split" and split.inputs[0] else None
    product = next((v.producer() for v in add.inputs if v and v.producer()), None) if add is not None else None
    if value is None or split is None or add is None or product is None or product.op_type != "MatMul":
        return False
    bias = next((v for v in add.inputs if is_weight(v, rank=1)), None)
    weight = product.inputs[1]
    if bias is None or not is_weight(weight, rank=2) or len(bias.uses()) != 1 or len(weight.uses()) != 1:
        return False
    index = next(i for i, v in enumerate(split.outputs) if v is value)
    start = int(array_of(split.inputs[1])[:index].sum())
    columns = np.ones(array_of(bias).shape, dtype=np.float32)
    columns[start : start + len(factors)] = factors
    for node, old in ((product, weight), (add, bias)):
        made = new_weight(graph, array_of(old) * columns, f"{old.name}.folded")
        node.replace_input_with(next(i for i, v in enumerate(node.inputs) if v is old), made)
        del graph.initializers[str(old.name)]
    return True


def _scaled(graph: "ir.Graph", weight: "ir.Value", factors: "NDArray[np.float32]", name: str) -> "ir.Value":
    """Add the weight with its rows multiplied, computed when it is written: all at once would be the model again."""
    import onnx_ir as ir

    from converter.graph.read import lazy_tensor

    tensor = weight.const_value
    assert tensor is not None
    made = ir.Value(name=name, const_value=lazy_tensor(lambda: tensor.numpy() * factors[:, None], tensor, name))
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.shape)
    graph.register_initializer(made)
    return made


def _search(name: str, given: "NDArray[np.float32]", weight: "NDArray[np.float32]") -> Smoothing | None:
    largest = np.abs(given).max(axis=0)
    if largest.max() <= 0:
        return None
    wanted = given @ weight
    plain = _error(given, weight, wanted)
    best = None
    for share in THRESHOLDS:
        factors = np.maximum(1, largest / (largest.max() * share)).astype(np.float32)
        ratio = _error(given / factors, weight * factors[:, None], wanted) / max(plain, 1e-30)
        if best is None or ratio < best.error_ratio:
            best = Smoothing(name, factors, ratio)
    return best


def _error(given: "NDArray[np.float32]", weight: "NDArray[np.float32]", wanted: "NDArray[np.float32]") -> float:
    """Return the squared error of the product in int8: unsigned activations, a signed scale per output."""
    low, high = min(0.0, float(given.min())), max(0.0, float(given.max()))
    step = max((high - low) / 255, 1e-12)
    steps = np.abs(weight).max(axis=0) / 127
    steps[steps == 0] = 1
    rounded = np.rint(given / step) * step
    return float(np.square(rounded @ (np.rint(weight / steps) * steps) - wanted).sum())
