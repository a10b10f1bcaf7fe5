"""Signatures of every length from two that were lowered: what differs between them is what depends on the length.

Lowering takes most of a conversion's time, once a signature. Two lengths, one apart, show how each shape and each
constant moves with the length; all others follow. What is stamped out is compared with PyTorch like what is lowered.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import (
    add_buffer,
    constant,
    inputs_of,
    is_kind,
    outputs_of,
    scale_tensors,
    shape_of,
    text,
    with_scale_tensors,
)
from converter.tflite.model import SIGNATURE
from converter.tflite.positions import ANY, count_tokens, ints, look_up, repeat

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Numbers, Operator, Quantization, Signature, Tensor

TABLE = 1024
"""Values from which a constant cut to the length is kept once, as a table whose first rows are looked up."""


class LengthDependent(Exception):
    """The two signatures differ by more than their length: the caller then lowers every length."""


@dataclass(frozen=True)
class Linear:
    """Whole numbers that move with the length: `slope * length + base`."""

    slope: "np.ndarray[Any, Any]"
    base: "np.ndarray[Any, Any]"

    def at(self, length: int) -> "np.ndarray[Any, Any]":
        if length == ANY:
            return np.where(self.slope == 0, self.base, ANY).astype(np.int32)
        return (self.slope * length + self.base).astype(np.int32)

    @property
    def moves(self) -> bool:
        return bool(self.slope.any())


@dataclass
class Part:
    """One tensor of the stamp."""

    model: "Model"
    tensor: "Tensor"
    """As it is at the longest length."""
    shape: Linear
    values: Linear | None = None
    """Whole numbers that move with the length; None: the tensor is computed, or the same, or cut to the length."""


class Stamp:
    """What two subgraphs of one model have in common.

    Raises (when made):
        LengthDependent: their operations differ, or a constant that is neither moved nor cut by the length.

    """

    def __init__(self, model: "Model", long: "tuple[Graph, int]", short: "tuple[Graph, int]") -> None:
        self.model = model
        (self.graph, self.longest), (self.other, self.shorter) = long, short
        self.parts: list[Part] = []
        self._pairs: dict[tuple[int, int], int] = {}
        self._drop_shape_options()
        if len(self.graph.operators) != len(self.other.operators):
            raise LengthDependent("different sequence lengths give a different number of operations")
        self.inputs = self._numbers(self.graph.inputs, self.other.inputs)
        pairs = zip(self.graph.operators, self.other.operators, strict=True)
        self.operators = [self._operator(a, b) for a, b in pairs]
        self.outputs = self._numbers(self.graph.outputs, self.other.outputs)
        self.tables = [i for i, p in enumerate(self.parts) if self._is_table(p)]
        self.counts = [i for i, p in enumerate(self.parts) if self._counts(p)]
        self.uniform = {i: v for i, p in enumerate(self.parts) if (v := self._uniform(p)) is not None}

    def make(self, length: int, name: str) -> "Graph":
        """Return a subgraph for `length` tokens; `ANY`: for any number up to the longest.

        Raises:
            LengthDependent: any length is wanted, and a constant other than a table is cut to it.

        """
        from ai_edge_litert.schema_py_generated import OperatorT, SubGraphT

        graph: Graph = SubGraphT([], self.inputs.copy(), self.outputs.copy(), [], name)
        graph.tensors = [self._tensor(i, p, length) for i, p in enumerate(self.parts)]
        if length == ANY:
            for number in self.counts:
                count_tokens(self.model, graph, self.longest, number)
            for number, value in self.uniform.items():
                repeat(self.model, graph, number, value)
        if self.tables:
            rows = (
                count_tokens(self.model, graph, self.longest)
                if length == ANY
                else ints(self.model, graph, "positions", list(range(length)))
            )
            for number in self.tables:
                look_up(self.model, graph, number, self.parts[number].tensor.buffer, rows)
        for inputs, outputs, pattern in self.operators:
            made = OperatorT(pattern.opcodeIndex, inputs.copy(), outputs.copy())
            made.builtinOptions, made.builtinOptionsType = pattern.builtinOptions, pattern.builtinOptionsType
            made.builtinOptions2, made.builtinOptions2Type = pattern.builtinOptions2, pattern.builtinOptions2Type
            graph.operators.append(made)
        return graph

    def _drop_shape_options(self) -> None:
        """A RESHAPE says its shape twice; the input is what runtimes read."""
        for operation in (*self.graph.operators, *self.other.operators):
            if is_kind(operation, "RESHAPE", self.model) and len(inputs_of(operation)) > 1:
                operation.builtinOptions, operation.builtinOptionsType = None, 0

    def _operator(self, a: "Operator", b: "Operator") -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Operator]":
        same = a.opcodeIndex == b.opcodeIndex and len(inputs_of(a)) == len(inputs_of(b))
        if not same or a.customOptions is not None or _options(a) != _options(b):
            raise LengthDependent("different sequence lengths give different operations")
        return self._numbers(inputs_of(a), inputs_of(b)), self._numbers(outputs_of(a), outputs_of(b)), a

    def _numbers(self, a: "Numbers", b: "Numbers") -> "np.ndarray[Any, Any]":
        if len(a) != len(b):
            raise LengthDependent("operations have different inputs or outputs at different sequence lengths")
        return np.array([self._number(int(x), int(y)) for x, y in zip(a, b, strict=True)], np.int32)

    def _number(self, a: int, b: int) -> int:
        if (a < 0) != (b < 0):
            raise LengthDependent("an optional input exists at one sequence length only")
        if a < 0:
            return -1
        # One constant of the one may stand for two of the other, where numbers happen to be equal.
        if (a, b) not in self._pairs:
            self._pairs[a, b] = len(self.parts)
            tensors = self.graph.tensors[a], self.other.tensors[b]
            self.parts.append(self._part(*tensors))
            for pair in zip(*map(scale_tensors, tensors), strict=True):
                self._number(*pair)
        return self._pairs[a, b]

    def _part(self, a: "Tensor", b: "Tensor") -> Part:
        if a.type != b.type or len(shape_of(a)) != len(shape_of(b)):
            raise LengthDependent("tensors have different types at different sequence lengths")
        shape = self._linear(np.array(shape_of(a), np.int64), np.array(shape_of(b), np.int64))
        data = [self.model.buffers[t.buffer].data for t in (a, b)]
        if (data[0] is None) != (data[1] is None):
            raise LengthDependent("a tensor is constant at one sequence length only")
        if data[0] is None or (a.buffer == b.buffer and not shape.moves):
            return Part(self.model, a, shape)
        long, short = constant(self.model, a), constant(self.model, b)
        if long is None or short is None:
            raise LengthDependent("a constant has an unsupported type")
        if np.array_equal(long[tuple(slice(n) for n in short.shape)], short):
            return Part(self.model, a, shape)
        if long.shape == short.shape and long.dtype == np.int32:
            return Part(self.model, a, shape, self._linear(long.astype(np.int64), short.astype(np.int64)))
        raise LengthDependent("a constant depends on the sequence length")

    def _linear(self, long: "np.ndarray[Any, Any]", short: "np.ndarray[Any, Any]") -> Linear:
        slope, rest = np.divmod(long - short, self.longest - self.shorter)
        if rest.any():
            raise LengthDependent("a shape is not linear in the sequence length")
        return Linear(slope, long - slope * self.longest)

    def _tensor(self, number: int, part: Part, length: int) -> "Tensor":
        from ai_edge_litert.schema_py_generated import TensorT

        shape, buffer, signature = part.shape.at(length), part.tensor.buffer, None
        if length == ANY and part.shape.moves:
            signature, shape = shape, np.where(shape == ANY, 1, shape).astype(np.int32)
        if part.values is not None:
            buffer = add_buffer(self.model, part.values.at(length))
        elif number in self.tables or (length == ANY and (number in self.counts or number in self.uniform)):
            buffer = 0
        elif part.shape.moves and self.model.buffers[buffer].data is not None:
            if length == ANY:
                raise LengthDependent("a constant is cut to the sequence length")
            values = constant(self.model, part.tensor)
            assert values is not None
            buffer = add_buffer(self.model, values[tuple(slice(n) for n in shape)])
        made: Tensor = TensorT(
            shape,
            part.tensor.type,
            buffer,
            part.tensor.name,
            self._quantization(part.tensor),
            shapeSignature=signature,
            hasRank=True,
        )
        return made

    def _quantization(self, tensor: "Tensor") -> "Quantization | None":
        if tensor.quantization is None or not scale_tensors(tensor):
            return tensor.quantization
        return with_scale_tensors(tensor.quantization, {a: part for (a, _), part in self._pairs.items()})

    def _counts(self, part: Part) -> bool:
        """Whether a constant numbers the tokens."""
        values = constant(self.model, part.tensor) if part.shape.moves else None
        return values is not None and values.dtype == np.int32 and np.array_equal(values, np.arange(self.longest))

    def _uniform(self, part: Part) -> int | None:
        """Return the number that a constant repeats for each token (RoBERTa's token types); None where it does not."""
        values = constant(self.model, part.tensor) if part.shape.moves else None
        if (
            values is None
            or values.dtype != np.int32
            or values.size != self.longest
            or (values != values.flat[0]).any()
        ):
            return None
        return int(values.flat[0])

    def _is_table(self, part: Part) -> bool:
        from ai_edge_litert.schema_py_generated import TensorType

        shape, data = shape_of(part.tensor), self.model.buffers[part.tensor.buffer].data
        return (
            data is not None
            and part.values is None
            and part.tensor.type == TensorType.FLOAT32
            and len(data) >= TABLE
            and len(shape) >= 2
            and shape[-2] == self.longest
            and set(shape[:-2]) <= {1}
            and bool((part.shape.slope == np.eye(len(shape), dtype=int)[-2]).all())
        )


def _options(operation: "Operator") -> dict[str, Any] | None:
    made = operation.builtinOptions
    return (
        None if made is None else {k: v if not isinstance(v, np.ndarray) else v.tolist() for k, v in vars(made).items()}
    )


def stamp(model: "Model", lengths: "tuple[int, ...]", any_name: str | None = None) -> None:
    """Replace the signatures by one for each of `lengths`, the longest first; or (`any_name`) by one for all.

    The model's longest two are the pattern. Raises `LengthDependent` where they have too little in common.
    """
    from ai_edge_litert.schema_py_generated import SignatureDefT, TensorMapT

    by_length = sorted(((_length(s), s) for s in model.signatureDefs), key=lambda pair: -pair[0])
    if len(by_length) < 2:
        raise LengthDependent("at least two sequence lengths are needed")
    (longest, pattern), (shorter, other) = by_length[:2]
    graph, short = (model.subgraphs[s.subgraphIndex] for s in (pattern, other))
    places = [
        [(e.name, [int(t) for t in side].index(int(e.tensorIndex))) for e in entries]
        for entries, side in ((pattern.inputs, graph.inputs), (pattern.outputs, graph.outputs))
    ]
    made = Stamp(model, (graph, longest), (short, shorter))
    names = [(ANY, any_name)] if any_name else [(n, f"{SIGNATURE}{n}") for n in sorted(lengths, reverse=True)]
    model.subgraphs = [made.make(length, name) for length, name in names]
    model.signatureDefs = [
        SignatureDefT(
            *(
                [TensorMapT(name, int(side[place])) for name, place in entries]
                for entries, side in zip(places, (g.inputs, g.outputs), strict=True)
            ),
            key,
            i,
        )
        for i, (g, (_, key)) in enumerate(zip(model.subgraphs, names, strict=True))
    ]


def _length(signature: "Signature") -> int:
    return int(text(signature.signatureKey).removeprefix(SIGNATURE))
