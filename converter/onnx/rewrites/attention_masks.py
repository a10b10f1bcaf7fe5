"""The masks of attention in a decoder, in a few nodes: exporters take some fifty, and all of them run at every token.

What a mask is, is not read off its nodes, which every version writes otherwise: it is computed for several sizes and
compared with what it is taken for. A mask that says anything else, such as relative positions, stays as it is.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.onnx.rewrites.projections import new_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    Feed = Mapping[str, NDArray[Any]]
    Seen = Callable[[Feed, tuple[int, ...]], NDArray[np.bool_] | None]

SOURCE_MASK, TOKENS = "encoder_attention_mask", "input_ids"
BIAS, PAST = 5, 7
"""Inputs of `MultiHeadAttention`; of the cache its values, off which exporters read how many tokens came before."""
LOWEST = float(np.finfo(np.float32).min)
UNSEEN = -1e30
"""What is below leaves nothing of a score."""
MOST = 1 << 16
"""Numbers in a constant that a mask is made of: a larger one is a weight."""
SIZES = ((1, 1, 0, 7, 0), (2, 3, 0, 5, 0), (2, 1, 4, 5, 5), (3, 2, 4, 6, 6), (1, 1, 1, 1, 1), (1, 2, 11, 13, 13))
"""Batch, tokens, tokens before, tokens of the source, those whose keys are known."""
LONGEST, UNBOUNDED = 10, 2**31 - 1
"""A window as wide as this shows among `SIZES`; and from where on a number in a graph stands for no bound."""
TOKEN_AXIS = {"start": 1, "end": 2}
NAMES = (
    "batch_size",
    "sequence_length",
    "past_sequence_length",
    "encoder_sequence_length",
    "past_encoder_sequence_length",
)
HEADS = {"num_heads": 2, "head_dim": 4}


def shorten_masks(model: "ir.Model") -> int:
    """Write masks of the source's padding, and of later tokens, in a few nodes; returns how many masks."""
    from onnx_ir.passes import common

    users: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        bias = node.inputs[BIAS] if node.op_type == "MultiHeadAttention" and len(node.inputs) > BIAS else None
        if bias is not None and bias.producer() is not None:
            users.setdefault(bias, []).append(node)
    changed = 0
    for bias, nodes in users.items():
        made = _shorter(model, bias, nodes)
        for node in nodes if made is not None else ():
            node.replace_input_with(BIAS, made)
        changed += made is not None
    if changed:
        common.RemoveUnusedNodesPass()(model)
    return changed


def _shorter(model: "ir.Model", bias: "ir.Value", users: "list[ir.Node]") -> "ir.Value | None":
    given = {str(v.name): v for v in model.graph.inputs}
    own = [_past_value(node) for node in users]
    if TOKENS not in given or not _is_told_by_sizes(bias):
        return None
    if SOURCE_MASK in given and not any(own) and _computes(model, bias, _source_mask):
        return _make_source_mask(_Maker(model.graph, users[0], f"{bias.name}.short"), given)
    if all(own) and own[0] is not None and _computes(model, bias, _earlier_tokens):
        return _make_earlier_tokens(_Maker(model.graph, users[0], f"{bias.name}.short"), given[TOKENS], own[0])
    return None


def _past_value(node: "ir.Node") -> "ir.Value | None":
    return node.inputs[PAST] if len(node.inputs) > PAST else None


def _is_told_by_sizes(bias: "ir.Value") -> bool:
    """Whether nothing that a mask is made of could show beyond `SIZES` alone, as the width of a window would."""
    held = [v.const_value for n in _before(bias) for v in n.inputs if v is not None and v.const_value is not None]
    if any(t.size > MOST for t in held):
        return False
    whole = [np.abs(t.numpy().astype(np.float64)) for t in held if np.issubdtype(t.numpy().dtype, np.integer)]
    return all(((found <= LONGEST) | (found >= UNBOUNDED)).all() for found in whole)


def _before(value: "ir.Value") -> "list[ir.Node]":
    """Return the nodes that a value is made by, in an order in which they can run."""
    found: dict[ir.Node, None] = {}
    waiting = [(value.producer(), False)]
    while waiting:
        node, done = waiting.pop()
        if node is None or node in found:
            continue
        if done:
            found[node] = None
        else:
            waiting.append((node, True))
            waiting += [(v.producer(), False) for v in node.inputs if v is not None]
    return list(found)


def _computes(model: "ir.Model", bias: "ir.Value", wanted: "Seen") -> bool:
    """Whether a value is 0 where `wanted` of what is fed and its sizes is true, and below `UNSEEN` elsewhere."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(_alone(model, bias), options, providers=["CPUExecutionProvider"])
    random, inputs = np.random.default_rng(0), session.get_inputs()
    if any(isinstance(d, str) and d not in NAMES and d not in HEADS for v in inputs for d in v.shape):
        return False
    for sizes in SIZES:
        feed = {v.name: _drawn(v, sizes, random) for v in inputs}
        (found,) = session.run(None, feed)
        seen = wanted(feed, sizes)
        if seen is None:
            return False
        open_to, wanted_open = np.broadcast_arrays(found == 0, seen)
        if not np.array_equal(open_to, wanted_open):
            return False
        if found.shape[-2:] != seen.shape[-2:] or (found[found != 0] > UNSEEN).any():
            return False
    return True


def _alone(model: "ir.Model", value: "ir.Value") -> bytes:
    """Return the graph that makes one value, as a file."""
    import onnx
    import onnx_ir as ir
    from onnx import helper

    nodes = _before(value)
    read = {v.name: v for n in nodes for v in n.inputs if v is not None and v.producer() is None}
    weights = [ir.to_proto(v.const_value) for v in read.values() if v.const_value is not None]
    for tensor, name in zip(weights, (n for n, v in read.items() if v.const_value is not None), strict=True):
        tensor.name = name
    graph = helper.make_graph(
        [ir.to_proto(n) for n in nodes],
        "mask",
        [ir.to_proto(v) for v in read.values() if v.const_value is None],
        [helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


def _drawn(value: Any, sizes: tuple[int, ...], random: np.random.Generator) -> "NDArray[Any]":
    known = dict(zip(NAMES, sizes, strict=True)) | HEADS
    shape = [d if isinstance(d, int) else known[d] for d in value.shape]
    if value.type != "tensor(int64)":
        return random.standard_normal(shape).astype(np.float32)
    drawn = random.integers(0, 2, shape)
    drawn[..., 0] = 1
    return drawn


def _source_mask(feed: "Feed", sizes: tuple[int, ...]) -> "NDArray[np.bool_] | None":
    if SOURCE_MASK not in feed:
        return None
    seen = feed[SOURCE_MASK][:, None, None] > 0
    return np.broadcast_to(seen, (len(seen), 1, sizes[1], sizes[3]))


def _earlier_tokens(_feed: "Feed", sizes: tuple[int, ...]) -> "NDArray[np.bool_]":
    _, length, past, *_ = sizes
    return (np.arange(past + length) <= past + np.arange(length)[:, None])[None, None]


def _make_source_mask(make: "_Maker", given: "Mapping[str, ir.Value]") -> "ir.Value":
    """Return 0 for a token and the lowest number for padding, `[batch, 1, tokens, tokens of the source]`."""
    import onnx_ir as ir

    held = make("Cast", [given[SOURCE_MASK]], {"to": int(ir.DataType.BOOL)})
    row = make("Unsqueeze", [held, make.numbers("axes", [1, 2])])
    bias = make("Where", [row, make.real("seen", 0.0), make.real("unseen", LOWEST)])
    length = make("Shape", [given[TOKENS]], TOKEN_AXIS)
    ones = make.numbers("ones", [1, 1])
    shape = make("Concat", [ones, length, make.numbers("one", [1])], {"axis": 0})
    return make("Expand", [bias, shape])


def _make_earlier_tokens(make: "_Maker", tokens: "ir.Value", past: "ir.Value") -> "ir.Value":
    """Return 0 for a token up to one's own and the lowest number for a later one, `[1, 1, tokens, all tokens]`."""
    one = make.numbers("one", [1])
    length = make("Shape", [tokens], TOKEN_AXIS)
    held = make("Shape", [past], {"start": 2, "end": 3})
    shape = make("Concat", [one, one, length, make("Add", [held, length])], {"axis": 0})
    unseen = make("Expand", [make.real("unseen", LOWEST), shape])
    return make("Trilu", [unseen, make("Squeeze", [make("Add", [held, one])])], {"upper": 1})


class _Maker:
    """Adds nodes in front of another."""

    def __init__(self, graph: "ir.Graph", before: "ir.Node", name: str) -> None:
        self._graph, self._before, self._name, self._count = graph, before, name, 0

    def __call__(self, kind: str, inputs: "list[ir.Value]", attributes: dict[str, int] | None = None) -> "ir.Value":
        import onnx_ir as ir

        self._count += 1
        node = ir.node(kind, inputs, attributes or {}, name=f"{self._name}_{self._count}")
        node.outputs[0].name = node.name
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def numbers(self, name: str, values: list[int]) -> "ir.Value":
        return new_weight(self._graph, np.array(values, dtype=np.int64), f"{self._name}.{name}")

    def real(self, name: str, value: float) -> "ir.Value":
        return new_weight(self._graph, np.array(value, dtype=np.float32), f"{self._name}.{name}")
