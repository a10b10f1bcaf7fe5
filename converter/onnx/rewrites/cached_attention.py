"""Attention with a cache as one operator: ONNX Runtime's `MultiHeadAttention` in place of a dozen nodes a layer.

At every token the exported form turns queries, keys and values, joins the cache, and writes scores and weights out
between five operators. `com.microsoft.MultiHeadAttention` takes the projections and the cache as they are and gives the
cache back. Masks and relative positions are added to the scores as they were.

Only where heads times their size is the width of the model: a client that guesses the sizes of an empty cache guesses
those, and this operator refuses others. They stand in the file too, where other clients read them.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from converter.onnx.rewrites.attention import DOMAIN
from converter.onnx.rewrites.projections import array_of, is_weight, scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class CachedAttention:
    """One match. `past` is the cache that the operator joins itself; None where keys and values come whole."""

    query: "ir.Value"
    key: "ir.Value"
    value: "ir.Value"
    biases: "tuple[ir.Value, ...]"
    scale: float
    heads: int
    past: "tuple[ir.Node, ir.Node] | None"
    made: "ir.Node"


def fuse_cached_attention(model: "ir.Model") -> int:
    """Replace every attention that reads a cache; returns how many. What does not match exactly is left alone."""
    from onnx_ir.passes import common

    found = [m for n in list(model.graph) if n.op_type == "Softmax" and (m := _match(n)) is not None]
    sums: dict[tuple[ir.Value, ...], ir.Value] = {}
    for match in found:
        _replace(model.graph, match, _bias(model.graph, match, sums))
    if found:
        model.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(found)


def _match(softmax: "ir.Node") -> CachedAttention | None:
    scores, biases = _sum(softmax.inputs[0])
    scores, scale = _scaled(scores)
    product, use = _made_by(scores, "MatMul"), _only_user(softmax.outputs[0], "MatMul")
    if product is None or use is None or use.inputs[0] is not softmax.outputs[0]:
        return None
    turned = _made_by(product.inputs[1], "Transpose")
    back = _only_user(use.outputs[0], "Transpose")
    flat = None if back is None or _perm(back) != [0, 2, 1, 3] else _only_user(back.outputs[0], "Reshape")
    query = _heads(product.inputs[0])
    if turned is None or _perm(turned) != [0, 1, 3, 2] or flat is None or query is None:
        return None
    keys, values = (_made_by(v, "Concat") for v in (turned.inputs[0], use.inputs[1]))
    asked, heads, size = query
    if keys is None or values is None or _made_width(asked) != heads * size:
        return None
    return _with_cache(keys, values, CachedAttention(asked, asked, asked, biases, scale, heads, None, flat))


def _with_cache(keys: "ir.Node", values: "ir.Node", found: CachedAttention) -> CachedAttention | None:
    """Add keys and values: those of this call, or, where the cache holds an encoder's, all of them."""
    own = [heads for n in (keys, values) if (heads := _heads(n.inputs[-1])) is not None]
    kept = [v for n in (keys, values) if (v := n.inputs[0]) is not None and v.is_graph_input()]
    if len(own) != 2 or len(kept) != 2 or any(heads != found.heads for _, heads, _ in own):
        return None
    if ".encoder." in str(kept[0].name):
        return replace(found, key=keys.outputs[0], value=values.outputs[0])
    return replace(found, key=own[0][0], value=own[1][0], past=(keys, values))


def _bias(graph: "ir.Graph", match: CachedAttention, sums: "dict[tuple[ir.Value, ...], ir.Value]") -> "ir.Value | None":
    """Return what is added to the scores, as one value; layers that add the same share it."""
    import onnx_ir as ir

    if len(match.biases) < 2:
        return match.biases[0] if match.biases else None
    if match.biases not in sums:
        total = match.biases[0]
        for i, bias in enumerate(match.biases[1:]):
            node = ir.node("Add", [total, bias], name=f"{match.made.outputs[0].name}_bias_{i}")
            node.outputs[0].name = node.name
            graph.insert_before(match.made, node)
            total = node.outputs[0]
        sums[match.biases] = total
    return sums[match.biases]


def _replace(graph: "ir.Graph", match: CachedAttention, bias: "ir.Value | None") -> None:
    import onnx_ir as ir

    old = match.made.outputs[0]
    name = str(old.name)
    inputs = [match.query, match.key, match.value, None, None, bias]
    if match.past is not None:
        inputs += [n.inputs[0] for n in match.past]
    node = ir.node(
        "MultiHeadAttention",
        inputs,
        {"num_heads": match.heads, "scale": match.scale},
        domain=DOMAIN,
        num_outputs=3 if match.past is not None else 1,
        name=f"{name}_attention",
    )
    node.outputs[0].name = f"{name}_attention"
    graph.insert_before(match.made, node)
    ir.convenience.replace_all_uses_with(old, node.outputs[0])
    for concat, present in zip(match.past or (), node.outputs[1:], strict=False):
        known = concat.outputs[0]
        title = known.name
        present.type, present.shape = known.type, known.shape
        _number_heads(concat.inputs[0], known)
        ir.convenience.replace_all_uses_with(known, present, replace_graph_outputs=True)
        known.name, present.name = f"{title}_before", title


def _number_heads(past: "ir.Value | None", present: "ir.Value") -> None:
    """Give the axes of a cache input their sizes: this operator refuses the empty cache that is made without them."""
    import onnx_ir as ir

    if past is not None and past.shape is not None and present.shape is not None:
        rows, _, length, _ = past.shape.dims
        past.shape = ir.Shape([rows, present.shape.dims[1], length, present.shape.dims[3]])


def _heads(value: "ir.Value | None") -> "tuple[ir.Value, int, int] | None":
    """Return the projection `[batch, length, heads * size]`, heads and size of what was split into heads."""
    turn = _made_by(value, "Transpose")
    split = None if turn is None or _perm(turn) != [0, 2, 1, 3] else _made_by(turn.inputs[0], "Reshape")
    if split is None or split.inputs[0] is None or not is_weight(split.inputs[1], rank=1):
        return None
    target = array_of(split.inputs[1]).tolist()
    return (split.inputs[0], target[2], target[3]) if len(target) == 4 and target[:2] == [0, 0] else None


def _made_width(value: "ir.Value") -> int | None:
    """Return how many inputs the product has that a projection comes from."""
    node = value.producer()
    while node is not None and node.op_type in {"Split", "Add"}:
        value = next((v for v in node.inputs if v is not None and v.producer() is not None), value)
        node = value.producer()
    if node is None or node.op_type != "MatMul" or not is_weight(node.inputs[1], rank=2):
        return None
    return int(array_of(node.inputs[1]).shape[0])


def _sum(value: "ir.Value | None") -> "tuple[ir.Value | None, tuple[ir.Value, ...]]":
    """Split `product + bias + …` into the product's side and the biases."""
    biases: list[ir.Value] = []
    while (add := _made_by(value, "Add")) is not None:
        sides = [(a, b) for a, b in (add.inputs[:2], add.inputs[1::-1]) if b is not None and _holds_product(a)]
        if len(sides) != 1:
            break
        value, bias = sides[0]
        biases.append(bias)
    return value, tuple(biases)


def _holds_product(value: "ir.Value | None") -> bool:
    add = _made_by(value, "Add")
    return _is_product(value) or (add is not None and any(map(_holds_product, add.inputs)))


def _is_product(value: "ir.Value | None") -> bool:
    return _made_by(_scaled(value)[0], "MatMul") is not None


def _scaled(value: "ir.Value | None") -> "tuple[ir.Value | None, float]":
    node = _made_by(value, "Mul")
    if node is not None:
        for one, other in (node.inputs[:2], node.inputs[1::-1]):
            number = scalar_of(other)
            if number is not None:
                return one, number
    return value, 1.0


def _made_by(value: "ir.Value | None", kind: str) -> "ir.Node | None":
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _only_user(value: "ir.Value", kind: str) -> "ir.Node | None":
    users = value.consumers()
    return users[0] if len(users) == 1 and users[0].op_type == kind and not value.is_graph_output() else None


def _perm(node: "ir.Node") -> list[int]:
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []
