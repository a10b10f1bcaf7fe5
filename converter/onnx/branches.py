"""Early exits as branches: what only unsure texts need becomes the body of an `If`, and back.

Until a file is shipped its graph is flat: every rewrite, quantizer and comparison sees all operators of the model. A
shipped file computes the layers behind an exit where a text of the batch goes on; an exit's answer counts for each text
that is sure of it, whether the batch goes on or not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

PASSED = ("Identity", "Cast")
"""What may stand between a choice of answers and what follows it."""
REST, LEFT, SURE = "rest", "left", "sure"


def write_branches(path: Path, made: Path) -> int:
    """Write the file `path` to `made` with a branch for every exit; returns how many there are."""
    from converter.onnx.read import model_of, read_proto
    from converter.onnx.write import write_onnx

    proto, weights = read_proto(path)
    found = put_branches(proto.graph)
    write_onnx(model_of(proto, weights), made)
    return found


def put_branches(graph: Any) -> int:
    """Move what stands behind each exit of a GraphProto into a branch; returns how many exits there are."""
    chain, kind = _choices(graph)
    for name in reversed(chain):
        _branch(graph, name, kind)
    return len(chain)


def _choices(graph: Any) -> tuple[list[str], int]:
    """Return the values that choose between an exit's answer and what follows, the first exit's first; and their type.

    A graph in half precision gives its answers back in float32, behind a `Cast`.
    """
    from onnx import TensorProto

    makers = {o: n for n in graph.node for o in n.output}
    found: list[str] = []
    kind: int = TensorProto.FLOAT
    waiting = [o.name for o in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type in PASSED:
            kind = TensorProto.FLOAT16 if node.op_type == "Cast" else kind
            waiting.append(node.input[0])
        elif node is not None and node.op_type == "Where":
            found.append(node.output[0])
            waiting.append(node.input[2])
    return found, kind


def _branch(graph: Any, name: str, kind: int) -> None:
    from onnx import TensorProto, helper

    nodes = [_copy(n) for n in graph.node]
    place = next(i for i, n in enumerate(nodes) if name in n.output)
    where = nodes[place]
    kept: list[Any] = []
    moved: list[Any] = []
    alone = _needed_by(nodes, place, {o.name for o in graph.output})
    for i, node in enumerate(nodes[:place]):
        (moved if i in alone else kept).append(node)
    sure, answer, _ = where.input
    where.output[0] = f"{name}.{REST}"
    rest = _body(f"{name}.{REST}", [*moved, where], kind)
    left = _body(f"{name}.{LEFT}", [helper.make_node("Identity", [answer], [f"{name}.{LEFT}"])], kind)
    counted, all_sure, go = (f"{name}.{SURE}{i}" for i in range(3))
    made = [
        helper.make_node("Cast", [sure], [counted], to=TensorProto.INT32, name=counted),
        helper.make_node("ReduceMin", [counted], [all_sure], keepdims=0, name=all_sure),
        helper.make_node("Cast", [all_sure], [go], to=TensorProto.BOOL, name=go),
        helper.make_node("If", [go], [name], then_branch=left, else_branch=rest, name=name),
    ]
    _put(graph, [*kept, *made, *nodes[place + 1 :]])


def _body(output: str, nodes: "list[Any]", kind: int) -> Any:
    from onnx import helper

    return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, kind, None)])


def _needed_by(nodes: "list[Any]", place: int, outputs: set[str]) -> set[int]:
    """Return the nodes that nothing needs but what the choice at `place` chooses where a text goes on."""
    users: dict[str, set[int]] = {}
    for i, node in enumerate(nodes):
        for name in reads_of(node):
            users.setdefault(name, set()).add(i)
    wanted: set[str] = {nodes[place].input[2]}
    found: set[int] = set()
    beside = {nodes[place].input[0], nodes[place].input[1]}
    for i in reversed(range(place)):
        made = [o for o in nodes[i].output if o]
        if not wanted & set(made) or (outputs | beside) & set(made):
            continue
        if all(users.get(o, set()) <= found | {place} for o in made):
            found.add(i)
            wanted |= set(reads_of(nodes[i]))
    return found


def reads_of(node: Any) -> Iterator[str]:
    """Yield what a node reads: its inputs, and the values around it that its branches or the body of its loop take."""
    yield from (name for name in node.input if name)
    for body in _bodies(node):
        own = {v.name for v in (*body.input, *body.initializer)} | {o for inner in body.node for o in inner.output}
        taken = [*(name for inner in body.node for name in reads_of(inner)), *(o.name for o in body.output)]
        yield from (name for name in taken if name not in own)


def _bodies(node: Any) -> "list[Any]":
    return [body for a in node.attribute for body in ([a.g] if a.HasField("g") else a.graphs)]


def flatten(graph: Any) -> None:
    """Undo `put_branches`: a flat graph of the same answers. Branches of another kind stay."""
    while any(_rest(n) is not None for n in graph.node):
        made: list[Any] = []
        for node in graph.node:
            body = _rest(node)
            if body is None:
                made.append(_copy(node))
                continue
            name = node.output[0]
            helpers = {f"{name}.{SURE}{i}" for i in range(3)}
            inner = [_copy(n) for n in body.node]
            inner[-1].output[0] = name
            made = [n for n in made if n.output[0] not in helpers] + inner
        _put(graph, made)


def _rest(node: Any) -> Any:
    """Return the body that computes the layers behind an exit; None where a node is no exit."""
    wanted = f"{node.output[0]}.{REST}" if node.op_type == "If" else None
    return next((b for b in _bodies(node) if b.name == wanted), None)


def _copy(node: Any) -> Any:
    return type(node).FromString(node.SerializeToString(deterministic=True))


def _put(graph: Any, nodes: "list[Any]") -> None:
    del graph.node[:]
    graph.node.extend(nodes)
