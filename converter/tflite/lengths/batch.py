"""Signatures that take several texts a call, made of those that take one: `serving_16_batch_8` beside `serving_16`.

Lowered graphs keep the text as first axis, or texts and tokens as one (`[tokens, width]` before an embedding table or a
linear layer). So every shape that follows from the inputs has its first number multiplied; what would mix texts, or
lay them in another order, is refused by name. Weights are shared with the signatures that were there.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.tflite.file import (
    add_buffer,
    add_tensor,
    code_of,
    constant,
    inputs_of,
    outputs_of,
    read_flat,
    shape_of,
    text,
    write_flat,
)
from converter.tflite.lower.narrow import ELEMENTWISE, operation_names
from converter.tflite.model import BATCH
from converter.tflite.positions import ints, operation

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator

COMPARED = frozenset({"EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "SELECT"})
LOGICAL = frozenset({"LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"})
BROADCAST = ELEMENTWISE | COMPARED | LOGICAL
"""Operations whose operands are brought to one shape."""
ROW_BY_ROW = frozenset({"FULLY_CONNECTED", "EMBEDDING_LOOKUP", "QUANTIZE", "DEQUANTIZE", "L2_NORMALIZATION"})
"""Operations that do to one row of their first input what they do to all."""
SHAPED = frozenset({"RESHAPE", "BROADCAST_TO"})
"""Operations that are told the shape of what they make, by their second input."""
AXES = frozenset({"MEAN", "SUM", "REDUCE_MAX", "CUMSUM"})
"""Operations over axes, named by their second input: not over the first."""


def add_batches(path: Path, batch: int) -> None:
    """Add to the file at `path` a signature of `batch` texts for each of one.

    Raises:
        StageFailed: an operation of this architecture mixes texts (named).

    """
    from ai_edge_litert.schema_py_generated import SignatureDefT

    model = read_flat(path)
    for signature in list(model.signatureDefs):
        key = f"{text(signature.signatureKey)}{BATCH}{batch}"
        model.subgraphs.append(_Batched(model, model.subgraphs[signature.subgraphIndex], batch, key).make())
        # Copies: a subgraph's tensors are numbered anew when it is written.
        sides = copy.deepcopy((signature.inputs, signature.outputs))
        model.signatureDefs.append(SignatureDefT(*sides, key, len(model.subgraphs) - 1))
    made = path.with_name("batched.tflite")
    write_flat(model, made)
    made.replace(path)


class _Batched:
    """One subgraph, copied for `batch` texts."""

    def __init__(self, model: "Model", graph: "Graph", batch: int, name: str) -> None:
        self.model, self.batch = model, batch
        self.graph = copy.copy(graph)
        self.graph.name = name
        self.graph.tensors = [copy.copy(t) for t in graph.tensors]
        self.graph.operators = []
        self.given = graph.operators
        self.follows: set[int] = set()
        """Tensors that the inputs decide: they are there once a text."""

    def make(self) -> "Graph":
        for tensor in self.graph.inputs:
            self._multiply(int(tensor))
        for op in self.given:
            made = copy.copy(op)
            if self.follows & set(inputs_of(op)):
                self._widen(made)
            self.graph.operators.append(made)
        return self.graph

    def _multiply(self, number: int) -> None:
        tensor = self.graph.tensors[number]
        shape = list(shape_of(tensor))
        shape[0] *= self.batch
        tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None
        self.follows.add(number)

    def _widen(self, op: "Operator") -> None:
        name = operation_names().get(code_of(self.model, op), "")
        made = outputs_of(op)
        if len(made) != 1 or not shape_of(self.graph.tensors[made[0]]) or not self._is_row_by_row(op, name):
            raise self._refused(name)
        self._multiply(made[0])
        shape = [int(n) for n in shape_of(self.graph.tensors[made[0]])]
        if name in SHAPED:
            self._replace(op, 1, shape)
            op.builtinOptions, op.builtinOptionsType = None, 0
        elif name == "SLICE":
            self._replace(op, 2, shape)
        elif name in BROADCAST:
            op.inputs = np.array([self._aligned(t, shape, name) for t in inputs_of(op)], np.int32)
        elif name == "CONCATENATION":
            op.inputs = np.array([self._repeated(t, name) for t in inputs_of(op)], np.int32)

    def _refused(self, name: str) -> StageFailed:
        return StageFailed(
            f"{name} may mix texts", where=text(self.graph.name), hint="leave batch out: one text per call always works"
        )

    def _is_row_by_row(self, op: "Operator", name: str) -> bool:
        """Whether rows of the first axis stay apart, and in their order; shapes of `op`'s inputs are multiplied."""
        inputs = inputs_of(op)
        first = shape_of(self.graph.tensors[inputs[0]])
        if name in AXES or name == "TRANSPOSE":
            found = self._constant(inputs[1])
            axes = [] if found is None else [int(a) % len(first) for a in found.ravel()]
            return axes[:1] == [0] if name == "TRANSPOSE" else bool(axes) and 0 not in axes
        if name == "SLICE":
            start, size = (self._constant(t) for t in inputs[1:])
            whole = {-1, first[0] // self.batch}
            return start is not None and size is not None and start[0] == 0 and int(size[0]) in whole
        apart = {
            "BATCH_MATMUL": all(t in self.follows for t in inputs) and len(first) > 2,
            "GATHER_ND": inputs[0] not in self.follows,
            "CONCATENATION": name == "CONCATENATION" and int(op.builtinOptions.axis) % len(first) != 0,
            "SOFTMAX": len(first) > 1,
        }
        known = name in BROADCAST or name in SHAPED or (name in ROW_BY_ROW and inputs[0] in self.follows)
        return apart.get(name, known)

    def _constant(self, number: int) -> "np.ndarray[Any, Any] | None":
        return constant(self.model, self.graph.tensors[number])

    def _replace(self, op: "Operator", place: int, values: list[int]) -> None:
        inputs = inputs_of(op)
        inputs[place] = ints(self.model, self.graph, f"{text(self.graph.name)}/shape", values)
        op.inputs = np.array(inputs, np.int32)

    def _repeated(self, number: int, name: str) -> int:
        """Return a tensor that is there once a text: a constant is written as often."""
        if number in self.follows:
            return number
        tensor, values = self.graph.tensors[number], self._constant(number)
        if values is None or values.shape[0] != 1:
            raise self._refused(name)
        held = add_buffer(self.model, np.repeat(values, self.batch, axis=0))
        return add_tensor(self.graph, f"{text(tensor.name)}/texts", (self.batch, *values.shape[1:]), tensor.type, held)

    def _aligned(self, number: int, made: list[int], name: str) -> int:
        """Return an operand of an elementwise operation that makes the shape `made`, its texts where the others' are.

        One of fewer axes has texts and tokens as one axis, or lacks the axes that broadcasting puts before the texts.
        """
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        tensor = self.graph.tensors[number]
        shape = [int(n) for n in shape_of(tensor)]
        missing = len(made) - len(shape)
        if number not in self.follows:
            if shape and not missing and shape[0] != 1:
                raise self._refused(name)
            return number
        if not missing and shape[0] == made[0]:
            return number
        tokens = shape[0] // self.batch
        if not missing or (tokens > 1 and missing > 1):
            raise self._refused(name)
        between = [1] * missing if tokens == 1 else [tokens]
        apart = [self.batch, *between, *shape[1:]]
        out = add_tensor(self.graph, f"{text(tensor.name)}/texts", apart, tensor.type)
        self.graph.tensors[out].quantization = tensor.quantization
        wanted = ints(self.model, self.graph, f"{text(tensor.name)}/apart", apart)
        self.graph.operators.append(operation(self.model, BuiltinOperator.RESHAPE, [number, wanted], out))
        self.follows.add(out)
        return out
