"""Attention as one operator: ONNX Runtime's `MultiHeadAttention` in place of some twelve nodes a layer.

Exported attention transposes every head to its own block and back and writes the scores out between five operators. The
contrib operator `com.microsoft.MultiHeadAttention` does the same on the unsplit projections. Whatever is added to the
scores (padding masks, sliding windows, relative positions) becomes its `attention_bias`, so nothing of a mask need be
understood here.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.onnx.rewrites.projections import array_of, is_weight, scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"
PADDING = "padding_mask"
MASK_FILTER = -1e9
"""Added to the scores of padding: its `exp` is 0 beside any score, and a row of nothing else stays finite."""


@dataclass(frozen=True)
class Attention:
    """One match: projections `[batch, length, width]`, what is added to the scores, and the value it all replaces."""

    query: "ir.Value"
    key: "ir.Value"
    value: "ir.Value"
    biases: "tuple[ir.Value, ...]"
    scale: float
    head_dim: int
    made: "ir.Value"


def attention_biases(model: "ir.Model") -> frozenset[str]:
    """Return the names of the values that are added to attention scores, one alone each."""
    return frozenset(str(m.biases[0].name) for m in attentions(model) if len(m.biases) == 1)


def fuse_attention(model: "ir.Model", padding: Collection[str] = ()) -> int:
    """Replace every attention that is written out; returns how many. What does not match exactly is left alone.

    `padding` names the biases that are nothing but the padding mask: the operator reads `attention_mask` instead.
    """
    from onnx_ir.passes import common

    fused = 0
    for match in attentions(model):
        width = _width(match.query)
        if width is None or width % match.head_dim or _width(match.value) != width:
            continue
        # Alone: beside a position bias the mask stays what it is, or the bias would go with it.
        plain = len(match.biases) == 1 and match.biases[0].name in padding
        mask = _padding_mask(model) if plain else None
        _replace(model.graph, match, width // match.head_dim, mask)
        fused += 1
    if fused:
        model.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return fused


def attentions(model: "ir.Model", *, read_elsewhere: bool = False) -> list[Attention]:
    """Return every attention that is written out in a way that is known.

    `read_elsewhere`: also those whose shares are read by something else, as by layers that rank tokens by them.
    """
    found = (_match(n, read_elsewhere=read_elsewhere) for n in model.graph if n.op_type == "Softmax")
    return [m for m in found if m is not None]


def _match(softmax: "ir.Node", *, read_elsewhere: bool) -> Attention | None:
    scores, biases = _sum(softmax.inputs[0])
    scores, scale = _scaled(scores)
    product = _made_by(scores, "MatMul")
    users = softmax.outputs[0].consumers()
    uses = [u for u in users if u.op_type == "MatMul" and u.inputs[0] is softmax.outputs[0]]
    if product is None or len(uses) != 1 or (len(users) > 1 and not read_elsewhere):
        return None
    (use,) = uses
    query, query_scale = _scaled(product.inputs[0])
    key, key_scale = _scaled(product.inputs[1])
    sides = (_heads(query, (0, 2, 1, 3)), _heads(key, (0, 2, 3, 1)), _heads(use.inputs[1], (0, 2, 1, 3)))
    back = _only_user(use.outputs[0], "Transpose")
    flat = _only_user(back.outputs[0], "Reshape") if back is not None and _perm(back) == (0, 2, 1, 3) else None
    if any(s is None for s in sides) or flat is None:
        return None
    (q, head_dim), (k, _), (v, value_dim) = (s for s in sides if s is not None)
    if head_dim != value_dim or not _keeps_length(flat):
        return None
    return Attention(q, k, v, biases, scale * query_scale * key_scale, head_dim, flat.outputs[0])


def _sum(value: "ir.Value | None") -> "tuple[ir.Value | None, tuple[ir.Value, ...]]":
    """Split `product + bias + …` into the product's side and the biases."""
    biases: list[ir.Value] = []
    while value is not None and (add := _made_by(value, "Add", "Sum")) is not None and len(add.inputs) == 2:
        left, right = add.inputs
        side = next((v for v in (left, right) if _holds_product(v)), None)
        other = right if side is left else left
        if side is None or other is None or _holds_product(other):
            break
        biases.append(other)
        value = side
    return value, tuple(biases)


def _holds_product(value: "ir.Value | None") -> bool:
    """Whether `value` is the product of queries and keys, scaled or with something added already."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "MatMul":
            return True
        if node.op_type in {"Mul", "Div"} and scalar_of(node.inputs[1]) is not None:
            value = node.inputs[0]
        elif node.op_type in {"Add", "Sum"}:
            return any(_holds_product(v) for v in node.inputs)
        else:
            return False
    return False


def _scaled(value: "ir.Value | None") -> "tuple[ir.Value | None, float]":
    """Take a multiplication by a constant off `value`."""
    node = _made_by(value, "Mul", "Div")
    factor = scalar_of(node.inputs[1]) if node is not None else None
    if node is None or factor is None or factor == 0:
        return value, 1.0
    return node.inputs[0], factor if node.op_type == "Mul" else 1 / factor


def _heads(value: "ir.Value | None", perm: tuple[int, ...]) -> "tuple[ir.Value, int] | None":
    """Return the unsplit projection behind `Transpose(Reshape(x, [batch, length, heads, head_dim]))`, and head_dim."""
    transpose = _made_by(value, "Transpose")
    if transpose is None or _perm(transpose) != perm:
        return None
    reshape = _made_by(transpose.inputs[0], "Reshape")
    head_dim = _last_of_shape(reshape) if reshape is not None else None
    given = reshape.inputs[0] if reshape is not None else None
    return (given, head_dim) if given is not None and head_dim is not None and head_dim > 0 else None


def _last_of_shape(reshape: "ir.Node") -> int | None:
    """Return the last of four dimensions that a `Reshape` asks for, where it is a constant."""
    shape = reshape.inputs[1]
    if is_weight(shape):
        dims = array_of(shape)
        return int(dims[-1]) if len(dims) == 4 else None
    concat = _made_by(shape, "Concat")
    if concat is None or len(concat.inputs) != 4 or not is_weight(concat.inputs[3]):
        return None
    return int(array_of(concat.inputs[3]).reshape(-1)[0])


def _keeps_length(reshape: "ir.Node") -> bool:
    """Whether the last `Reshape` joins the heads and nothing else."""
    shape = reshape.inputs[1]
    if is_weight(shape):
        return len(array_of(shape)) == 3
    concat = _made_by(shape, "Concat")
    return concat is not None and len(concat.inputs) == 3


def _width(value: "ir.Value") -> int | None:
    """Return the last dimension of a projection, read off the weights that made it."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Slice" and node.inputs[0] is not None:
        return _width(node.inputs[0])  # one token of a projection: `keep_read_rows`
    if node.op_type == "Split" and len(node.inputs) > 1 and is_weight(node.inputs[1]):
        return int(array_of(node.inputs[1])[value.index()])
    weight = next((v for v in node.inputs if is_weight(v)), None)
    if node.op_type in {"Add", "MatMul"} and weight is not None:
        return int(array_of(weight).shape[-1])
    return None


def _padding_mask(model: "ir.Model") -> "ir.Value":
    """Return `attention_mask` as int32, made once."""
    import onnx_ir as ir

    made = next((n for n in model.graph if n.name == PADDING), None)
    if made is None:
        given = next(i for i in model.graph.inputs if i.name == "attention_mask")
        made = ir.node("Cast", [given], {"to": int(ir.DataType.INT32)}, name=PADDING)
        made.outputs[0].name = PADDING
        model.graph.insert_before(model.graph[0], made)
    return made.outputs[0]


def _replace(graph: "ir.Graph", match: Attention, n_heads: int, padding: "ir.Value | None") -> None:
    import onnx_ir as ir

    name = str(match.made.name)
    nodes: list[ir.Node] = []
    biases = match.biases if padding is None else ()
    bias = biases[0] if biases else None
    for i, other in enumerate(biases[1:]):
        total = ir.node("Add", [bias, other], name=f"{name}_bias_{i}")
        total.outputs[0].name = f"{name}_bias_{i}"
        nodes.append(total)
        bias = total.outputs[0]
    attention = ir.node(
        "MultiHeadAttention",
        [match.query, match.key, match.value, None, padding, bias],
        {"num_heads": n_heads, "scale": float(np.float32(match.scale)), "mask_filter_value": MASK_FILTER},
        domain=DOMAIN,
        name=f"{name}_attention",
    )
    attention.outputs[0].name = f"{name}_attention"
    reshape = match.made.producer()
    assert reshape is not None
    graph.insert_before(reshape, [*nodes, attention])
    ir.convenience.replace_all_uses_with(match.made, attention.outputs[0])


def _made_by(value: "ir.Value | None", *op_types: str) -> "ir.Node | None":
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and node.domain == "" else None


def _only_user(value: "ir.Value", op_type: str) -> "ir.Node | None":
    users = value.consumers()
    return users[0] if len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output() else None


def _perm(node: "ir.Node") -> tuple[int, ...]:
    attribute = node.attributes.get("perm")
    return tuple(attribute.as_ints()) if attribute is not None else ()
