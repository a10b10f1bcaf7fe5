"""One graph behind the signatures of all lengths: its weights are packed in memory once, and stay in the cache.

A runtime packs the weights of every signature that is used: four lengths hold them four times, and a call at another
length finds none of its own in the cache. Here a signature is one operation, a loop that runs the shared graph once.
Of the operations that call another graph, `WHILE` alone brings that graph to the length of its inputs at every call
(`IF` does so when tensors are laid out, and fails at the next call of another length).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import (
    add_buffer,
    add_tensor,
    code_of,
    inputs_of,
    read_flat,
    shape_of,
    shared_flat,
    text,
    write_flat,
)
from converter.tflite.lengths.stamp import stamp
from converter.tflite.model import SIGNATURE
from converter.tflite.positions import ANY, ints, operation

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Tensor

SHARED = "any_length"
"""Name of the graph behind all lengths."""


def write_shared(given: Path, path: Path, lengths: Sequence[int]) -> None:
    """Make of a file's two longest signatures one graph, and of it a signature for each of `lengths`.

    Raises:
        LengthDependent: there is one signature, or some constant depends on the length: the file has to stay as it is.

    """
    from ai_edge_litert.schema_py_generated import SignatureDefT, TensorMapT

    model = read_flat(given)
    stamp(model, (), SHARED)
    body, signature = model.subgraphs[0], model.signatureDefs[0]
    inputs, outputs = (
        [Slot(text(e.name), int(e.tensorIndex), body.tensors[int(e.tensorIndex)]) for e in side]
        for side in (signature.inputs, signature.outputs)
    )
    loop = _Loop(model, inputs, outputs, len(lengths))
    loop.close(body)
    # The longest comes first: it is what a caller gets who asks for no signature, and it takes every text.
    ordered = sorted(lengths, reverse=True)
    model.subgraphs = [*(loop.graph(n) for n in ordered), body, loop.condition()]
    model.signatureDefs = [
        SignatureDefT(
            [TensorMapT(slot.name, i) for i, slot in enumerate(inputs)],
            [TensorMapT(slot.name, len(inputs) + i) for i, slot in enumerate(outputs)],
            f"{SIGNATURE}{n}",
            number,
        )
        for number, n in enumerate(ordered)
    ]
    write_flat(model, path)


def shared_graph(model: "Model") -> "Graph | None":
    """Return the graph behind the signatures of a file's tables; None where each has its own."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    first = model.subgraphs[0].operators
    if not first or code_of(model, first[0]) != BuiltinOperator.WHILE:
        return None
    return model.subgraphs[first[0].builtinOptions.bodySubgraphIndex]


def has_shared_graph(path: Path) -> bool:
    """Tell whether one graph stands behind a file's signatures."""
    return shared_graph(shared_flat(path)) is not None


@dataclass(frozen=True)
class Slot:
    """An input or output of the shared graph."""

    name: str
    number: int
    tensor: "Tensor"

    def shape(self, length: int) -> tuple[int, ...]:
        moves = shape_of(self.tensor) if self.tensor.shapeSignature is None else self.tensor.shapeSignature
        return tuple(length if n == ANY else int(n) for n in moves)


class _Loop:
    """What goes round: whether the graph has run, its inputs, its outputs, and the shape of its inputs.

    In place of its inputs the graph hands on one number each. An input handed on as it is would be taken for one that
    never changes, and keep the length of the call before (LiteRT 2.3); and shapes that change are what makes the
    runtime lay the graph out at every call.

    It would do so twice: at the length of the call before, then at this one. So the graph begins with a `RESHAPE` to a
    shape that is no constant: all that comes after is laid out when that has run, once (a twentieth of a short call).
    """

    def __init__(self, model: "Model", inputs: list[Slot], outputs: list[Slot], number: int) -> None:
        self.model, self.inputs, self.outputs = model, inputs, outputs
        self.number = number
        """Of the shared graph among the file's; the loop's condition comes after it."""
        self.zero = add_buffer(model, np.zeros(1, np.int32))
        self.false, self.true = (add_buffer(model, np.array([value])) for value in (False, True))

    def close(self, body: "Graph") -> None:
        """Let the shared graph take and hand on what goes round."""
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        spent = [self._short(body, slot, self.zero) for slot in self.inputs]
        before = [self._short(body, slot) for slot in self.outputs]
        shape, first = self._shape(body), self.inputs[0]
        body.inputs = _numbers(self._flag(body), *(s.number for s in self.inputs), *before, shape)
        handed_on = (*spent, *(s.number for s in self.outputs), self._shape(body, (0,)))
        body.outputs = _numbers(self._flag(body, self.true), *handed_on)
        late = add_tensor(body, f"{first.name}/late", shape_of(first.tensor), first.tensor.type)
        body.tensors[late].shapeSignature = first.tensor.shapeSignature
        for op in body.operators:
            op.inputs = _numbers(*(late if t == first.number else t for t in inputs_of(op)))
        body.operators.insert(0, operation(self.model, BuiltinOperator.RESHAPE, [first.number, shape], late))

    def condition(self) -> "Graph":
        """Return the graph that ends the loop."""
        from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, LogicalNotOptionsT

        graph = _graph("not_yet")
        done, again = self._flag(graph), self._flag(graph)
        others = [self._short(graph, slot) for slot in (*self.inputs, *self.outputs)]
        graph.inputs = _numbers(done, *others, self._shape(graph))
        graph.outputs = _numbers(again)
        options = (BuiltinOptions.LogicalNotOptions, LogicalNotOptionsT())
        graph.operators = [operation(self.model, BuiltinOperator.LOGICAL_NOT, [done], again, options)]
        return graph

    def graph(self, length: int) -> "Graph":
        """Return the graph of one signature: inputs first among its tensors, then outputs.

        A loop whose shapes change gives tensors that the runtime allocates as it runs, and an output has to have its
        place before that (LiteRT's `CompiledModel`): hence the last operation, to a shape that is known.
        """
        from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, WhileOptionsT

        graph = _graph(f"{SIGNATURE}{length}")
        slots = (*self.inputs, *self.outputs)
        own = [add_tensor(graph, slot.name, slot.shape(length), slot.tensor.type) for slot in slots]
        graph.inputs, graph.outputs = _numbers(*own[: len(self.inputs)]), _numbers(*own[len(self.inputs) :])
        before = [self._short(graph, slot, self.zero) for slot in self.outputs]
        spent = [self._short(graph, slot) for slot in self.inputs]
        options = (BuiltinOptions.WhileOptions, WhileOptionsT(self.number + 1, self.number))
        given = [
            self._flag(graph, self.false),
            *graph.inputs,
            *before,
            self._shape(graph, self.inputs[0].shape(length)),
        ]
        call = operation(self.model, BuiltinOperator.WHILE, given, 0, options)
        found = [add_tensor(graph, f"{s.name}/found", s.shape(length), s.tensor.type) for s in self.outputs]
        call.outputs = _numbers(self._flag(graph), *spent, *found, self._shape(graph))
        graph.operators = [call]
        for slot, made, output in zip(self.outputs, found, graph.outputs, strict=True):
            shape = ints(self.model, graph, f"{slot.name}/shape", list(slot.shape(length)))
            graph.operators.append(operation(self.model, BuiltinOperator.RESHAPE, [made, shape], int(output)))
        return graph

    def _flag(self, graph: "Graph", buffer: int = 0) -> int:
        from ai_edge_litert.schema_py_generated import TensorType

        return add_tensor(graph, "done", (1,), TensorType.BOOL, buffer)

    def _shape(self, graph: "Graph", values: tuple[int, ...] = ()) -> int:
        """Add what holds the shape of an input; `values`: a constant."""
        from ai_edge_litert.schema_py_generated import TensorType

        if values:
            return ints(self.model, graph, "shape", list(values))
        return add_tensor(graph, "shape", (len(shape_of(self.inputs[0].tensor)),), TensorType.INT32)

    def _short(self, graph: "Graph", slot: Slot, buffer: int = 0) -> int:
        """Add what stands for an input that is spent, or for an output before it is there."""
        return add_tensor(graph, f"no_{slot.name}", (1,), slot.tensor.type, buffer)


def _graph(name: str) -> "Graph":
    from ai_edge_litert.schema_py_generated import SubGraphT

    made: Graph = SubGraphT([], None, None, [], name)
    return made


def _numbers(*tensors: int) -> "np.ndarray[Any, Any]":
    return np.array(tensors, np.int32)
