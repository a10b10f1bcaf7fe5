"""The encoder with tokens as its first axis: attention then reads its heads where the products left them.

`MultiHeadAttention` on a CPU first copies queries, keys and values to one block a head. `com.microsoft.FusedMatMul`
steps through `[length, batch, heads, head_dim]` itself (`transBatchA`, `transBatchB`), but only where the axis that
moves is the first one. So hidden states become `[length, batch, width]` from the first layer on, by one transpose, and
back where something other than a layer reads them. Attention over 25 MiniLM tokens falls from 62 to 40 µs a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.onnx.rewrites.attention import DOMAIN, MASK_FILTER
from converter.onnx.rewrites.projections import is_weight, new_weight, scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir

TOKENWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Sum", "Erf", "Tanh", "Relu", "Gelu", "Sigmoid", "Sqrt", "Pow", "Cast", "Split"}
    | {"LayerNormalization", "MatMul", "MatMulIntegerToFloat", "QuantizeLinear", "DynamicQuantizeLinear"}
)
"""Operators that do the same to every token, wherever it lies (given what `_is_tokenwise` asks of their inputs)."""
FIRST_INPUT = frozenset({"LayerNormalization", "MatMul", "MatMulIntegerToFloat", "QuantizeLinear", "Split"})
"""Those of them whose other inputs are no tokens."""
SWAP = (1, 0, 2)


def put_sequence_first(model: "ir.Model") -> int:
    """Rewrite all `MultiHeadAttention` and what lies between them; returns how many there were."""
    from onnx_ir.passes import common

    found = [n for n in model.graph if n.op_type == "MultiHeadAttention"]
    leading = _leading_to(found)
    for_one = {n for n in found if _is_of_one_token(n.inputs[0], leading)}
    layout = _Layout(model.graph, leading)
    for node in list(model.graph):
        layout.visit(node)
    layout.restore_outputs()
    masks: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in found:
        padding, bias = (*node.inputs, None, None, None)[4:6]
        if padding is not None:
            if padding not in masks:
                masks[padding] = _added_masks(model.graph, padding)
            bias = masks[padding][1 if node in for_one else 0]
        _write_out(model.graph, node, bias)
    common.RemoveUnusedNodesPass()(model)
    return len(found)


def without_attention_operators(model: "ir.Model") -> str:
    """Return what is wrong where an attention operator is left, whose heads would be copied; empty where none is."""
    left = [n for n in model.graph if n.op_type == "MultiHeadAttention"]
    return f"{len(left)} MultiHeadAttention operators" if left else ""


def _is_of_one_token(value: "ir.Value | None", leading: "set[ir.Node]") -> bool:
    """Whether `keep_read_rows` left one token of this query."""
    node = value.producer() if value is not None else None
    while node is not None and node in leading:
        node = _tokens(node)[0].producer()
    return node is not None and node.op_type == "Slice"


def _leading_to(attentions: "list[ir.Node]") -> "set[ir.Node]":
    """Return the nodes between an attention's inputs and the value that its products share."""
    nodes: set[ir.Node] = set()
    for attention in attentions:
        waiting = list(attention.inputs[:3])
        while waiting:
            value = waiting.pop()
            node = value.producer() if value is not None else None
            # A normalization ends a layer: what it gives is read by the residual too.
            if node is not None and _is_tokenwise(node) and node.op_type != "LayerNormalization" and node not in nodes:
                nodes.add(node)
                waiting += _tokens(node)
    return nodes


def _tokens(node: "ir.Node") -> "list[ir.Value]":
    """Return the inputs of `node` that hold a row for every token."""
    if node.op_type == "MultiHeadAttention":
        return [v for v in node.inputs[:3] if v is not None]
    given = node.inputs[:1] if node.op_type in FIRST_INPUT else node.inputs
    return [v for v in given if v is not None and v.const_value is None]


def _is_tokenwise(node: "ir.Node") -> bool:
    if node.op_type not in TOKENWISE or not _tokens(node):
        return False
    if node.op_type in {"LayerNormalization", "Split"}:
        return _axis(node) == -1
    constants = [v for v in node.inputs if v is not None and v.const_value is not None]
    if node.op_type in {"MatMul", "MatMulIntegerToFloat"}:
        return is_weight(node.inputs[1], rank=2)
    # A constant with a row a token would have to be turned as well.
    return all(len(v.const_value.shape) <= 1 for v in constants if v.const_value is not None)


def _axis(node: "ir.Node") -> int:
    default = -1 if node.op_type == "LayerNormalization" else 0
    return node.attributes["axis"].as_int() if "axis" in node.attributes else default


@dataclass
class _Layout:
    """Turns what the nodes of the region read, and turns back what others read of it."""

    graph: "ir.Graph"
    leading: "set[ir.Node]"
    turned: "set[ir.Value]" = field(default_factory=set)
    """Values that are `[length, batch, width]` now."""
    swapped: "dict[ir.Value, ir.Value]" = field(default_factory=dict)

    def visit(self, node: "ir.Node") -> None:
        tokens = _tokens(node) if node.op_type == "MultiHeadAttention" or _is_tokenwise(node) else []
        if tokens and (node in self.leading or node.op_type == "MultiHeadAttention" or self.turned & set(tokens)):
            for value in tokens:
                if value not in self.turned:
                    self._exchange(node, value)
            self.turned |= set(node.outputs[: 1 if node.op_type == "DynamicQuantizeLinear" else None])
        elif any(v in self.turned for v in node.inputs) and not self._follow(node):
            for value in {v for v in node.inputs if v in self.turned}:
                self._exchange(node, value)

    def restore_outputs(self) -> None:
        """Give the outputs of the graph their layout back, under their names."""
        for i, value in enumerate(self.graph.outputs):
            if value in self.turned:
                made = self._swap(value)
                name = value.name
                value.name, made.name = f"{name}_turned", name
                made.type, made.shape = value.type, value.shape
                value.shape = None
                self.graph.outputs[i] = made

    def _follow(self, node: "ir.Node") -> bool:
        """Let a choice of tokens choose along the first axis; returns whether `node` is one."""
        import onnx_ir as ir

        if node.inputs[0] not in self.turned:
            return False
        if node.op_type == "Gather" and scalar_of(node.inputs[1]) is not None and _axis(node) == 1:
            node.attributes["axis"] = ir.AttrInt64("axis", 0)
            return True
        if node.op_type == "Slice" and len(node.inputs) == 4 and scalar_of(node.inputs[3]) == 1:
            first = new_weight(self.graph, np.array([0], dtype=np.int64), f"{node.outputs[0].name}.first_axis")
            node.replace_input_with(3, first)
            self.turned.add(node.outputs[0])
            return True
        return False

    def _exchange(self, node: "ir.Node", value: "ir.Value") -> None:
        for i, given in enumerate(node.inputs):
            if given is value:
                node.replace_input_with(i, self._swap(value))

    def _swap(self, value: "ir.Value") -> "ir.Value":
        """Return `value` with its first two axes exchanged, made once."""
        import onnx_ir as ir

        if value not in self.swapped:
            name = f"{value.name}_swapped"
            node = ir.node("Transpose", [value], {"perm": SWAP}, name=name)
            node.outputs[0].name = name
            producer = value.producer()
            assert producer is not None
            self.graph.insert_after(producer, node)
            self.swapped[value] = node.outputs[0]
        return self.swapped[value]


@dataclass
class _NewNodes:
    """Nodes that are named after one value, in order, to be inserted together."""

    name: str
    nodes: "list[ir.Node]" = field(default_factory=list)

    def add(
        self,
        op: str,
        given: "list[ir.Value]",
        what: str,
        attributes: "Mapping[str, Any] | None" = None,
        domain: str = "",
    ) -> "ir.Value":
        import onnx_ir as ir

        made = ir.node(op, given, attributes or {}, domain=domain, name=f"{self.name}_{what}")
        made.outputs[0].name = f"{self.name}_{what}"
        self.nodes.append(made)
        return made.outputs[0]


def _write_out(graph: "ir.Graph", node: "ir.Node", bias: "ir.Value | None") -> None:
    """Put two products and a softmax over `[batch, heads, queries, keys]` in the place of one attention."""
    import onnx_ir as ir

    name = str(node.outputs[0].name)
    n_heads, scale = node.attributes["num_heads"].as_int(), node.attributes["scale"].as_float()
    heads = new_weight(graph, np.array([0, 0, n_heads, -1], dtype=np.int64), f"{name}.heads")
    flat = new_weight(graph, np.array([0, 0, -1], dtype=np.int64), f"{name}.flat")
    new = _NewNodes(name)
    sides = zip(node.inputs[:3], ("query", "key", "value"), strict=True)
    query, key, value = (new.add("Reshape", [v, heads], what) for v, what in sides if v is not None)
    moved = {"transBatchA": 1, "transBatchB": 1, "transB": 1, "alpha": scale}
    scores = new.add("FusedMatMul", [query, key], "scores", moved, DOMAIN)
    if bias is not None:
        scores = new.add("Add", [scores, bias], "masked")
    shares = new.add("Softmax", [scores], "shares", {"axis": -1})
    mixed = new.add("FusedMatMul", [shares, value], "mixed", {"transBatchB": 1}, DOMAIN)
    back = new.add("Transpose", [mixed], "back", {"perm": (2, 0, 1, 3)})
    made = new.add("Reshape", [back, flat], "joined")
    graph.insert_before(node, new.nodes)
    ir.convenience.replace_all_uses_with(node.outputs[0], made)
    graph.remove(node, safe=True)


def _added_masks(graph: "ir.Graph", padding: "ir.Value") -> "tuple[ir.Value, ir.Value]":
    """Return what hides padding, for all queries `[batch, 1, length, length]` and for one `[batch, 1, 1, length]`.

    The former is added in one stride a head, three times as fast as the latter is spread.
    """
    import onnx_ir as ir

    name = str(padding.name)
    new = _NewNodes(name)

    def constant(what: str, array: "np.ndarray") -> ir.Value:
        return new_weight(graph, array, f"{name}.{what}")

    floats = new.add("Cast", [padding], "float", {"to": int(ir.DataType.FLOAT)})
    hidden = new.add("Sub", [floats, constant("one", np.array(1, np.float32))], "hidden")
    scores = new.add("Mul", [hidden, constant("filter", np.array(-MASK_FILTER, np.float32))], "scores")
    zeros = new.add("Mul", [hidden, constant("zero", np.array(0, np.float32))], "zeros")
    thin = new.add("Unsqueeze", [scores, constant("as_row", np.array([1, 2], np.int64))], "thin")
    column = new.add("Unsqueeze", [zeros, constant("as_column", np.array([1, 3], np.int64))], "column")
    full = new.add("Add", [thin, column], "full")
    producer = padding.producer()
    assert producer is not None
    graph.insert_after(producer, new.nodes)
    return full, thin
