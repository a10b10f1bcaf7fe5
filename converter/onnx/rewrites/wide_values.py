"""Values that go from one node in float32 to the next without passing half precision."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def drop_round_trips(model: "ir.Model") -> int:
    """Read what was made narrow and wide again as it was before; returns how many casts went.

    The converter narrows what every kept node gives, also on the way to another kept node: there it would overflow.
    """
    import onnx_ir as ir

    gone = 0
    for node in list(model.graph):
        narrow = _cast(node, ir.DataType.FLOAT)
        maker = None if narrow is None else narrow.producer()
        wide = None if maker is None else _cast(maker, ir.DataType.FLOAT16)
        if wide is None or not _is_wide(wide) or node.outputs[0].is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], wide)
        model.graph.remove(node, safe=True)
        gone += 1
    for node in [n for n in model.graph if _cast(n, ir.DataType.FLOAT16) is not None and not n.outputs[0].uses()]:
        if not node.outputs[0].is_graph_output():
            model.graph.remove(node, safe=True)
    return gone


def _cast(node: "ir.Node", to: "ir.DataType") -> "ir.Value | None":
    """Return what a node casts to a type; None where it does not."""
    return node.inputs[0] if node.op_type == "Cast" and node.attributes["to"].as_int() == int(to) else None


def _is_wide(value: "ir.Value") -> bool:
    """Whether a value that is narrowed was float32: integers are not."""
    import onnx_ir as ir

    maker = value.producer()
    if maker is not None and maker.op_type == "Cast":
        return maker.attributes["to"].as_int() == int(ir.DataType.FLOAT)
    return value.dtype in (None, ir.DataType.FLOAT)
