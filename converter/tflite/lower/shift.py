"""Normalization's shift, moved into the biases of the linear layers around it.

A constant per channel, added to every token of every text, and a part of the range that int8 spreads its steps over: a
linear layer that reads it adds the same number to each of its outputs, and one whose output a residual connection adds
to it has a bias anyway.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from converter.tflite.derived import Derived
from converter.tflite.file import add_tensor, constant, inputs_of, is_kind, outputs_of, shape_of, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model, Operator


def fold_shifts(model: "Model", graph: "Graph", derived: Derived) -> int:
    """Fold every shift that all of its readers can do without, in place; returns how many.

    A shift is lowered as `x - minus_shift` (`converter.tflite.lower.graph`).
    """
    return _Pass(model, graph, derived).run()


class _Pass:
    def __init__(self, model: "Model", graph: "Graph", derived: Derived) -> None:
        self.model, self.graph, self.derived = model, graph, derived
        self.makers = {t: op for op in graph.operators for t in outputs_of(op)}
        self.takers: dict[int, list[Operator | None]] = {int(t): [None] for t in graph.outputs}
        for op in graph.operators:
            for tensor in dict.fromkeys(inputs_of(op)):
                self.takers.setdefault(tensor, []).append(op)

    def run(self) -> int:
        gone: dict[int, int] = {}
        for op in self.graph.operators:
            if not self._shifts(op):
                continue
            shifted = outputs_of(op)[0]
            takers = self.takers.get(shifted, [])
            layers = [layer for taker in takers if (layer := self._layer(taker, shifted)) is not None]
            if layers and len(layers) == len(takers):
                for layer, taker in zip(layers, takers, strict=True):
                    self._move(layer, inputs_of(op)[1], reads=layer is taker)
                gone[shifted] = inputs_of(op)[0]
        self.graph.operators = [op for op in self.graph.operators if not set(outputs_of(op)) & gone.keys()]
        for op in self.graph.operators:
            op.inputs = np.array([gone.get(t, t) for t in inputs_of(op)], np.int32)
        return len(gone)

    def _shifts(self, op: "Operator") -> bool:
        """Whether `op` takes one constant a channel from what was computed."""
        if not is_kind(op, "SUB", self.model) or op.builtinOptions.fusedActivationFunction:
            return False
        given, minus = inputs_of(op)
        values, width = constant(self.model, self.graph.tensors[minus]), shape_of(self.graph.tensors[given])[-1:]
        return values is not None and given in self.makers and width == (values.size,) == values.shape[-1:]

    def _layer(self, taker: "Operator | None", shifted: int) -> "Operator | None":
        """Return the layer whose bias makes up for the shift where `taker` reads it; None: there is none."""
        if not is_kind(taker, "ADD", self.model):
            return taker if self._has_bias(taker) and inputs_of(taker)[0] == shifted else None
        beside = [t for t in inputs_of(taker) if t != shifted]
        layer = self.makers.get(beside[0]) if len(beside) == 1 else None
        if layer is None or not self._has_bias(layer) or layer.builtinOptions.fusedActivationFunction:
            return None
        return layer if self.takers[beside[0]] == [taker] else None

    def _has_bias(self, op: "Operator | None") -> "TypeGuard[Operator]":
        """Whether `op` is a linear layer over constants, with room for a bias."""
        if not is_kind(op, "FULLY_CONNECTED", self.model):
            return False
        tensors = [self.graph.tensors[t] for t in inputs_of(op)[1:] if t >= 0]
        return all(constant(self.model, t) is not None for t in tensors)

    def _move(self, layer: "Operator", minus: int, *, reads: bool) -> None:
        """Add the shift to the bias of `layer`: as its output sees it, or through the weights that read it."""
        given, weights, *rest = inputs_of(layer)
        key = ("shift", self._buffer(minus), self._buffer(weights) if reads else None)

        def added() -> "NDArray[np.float32]":
            shift = -self._values(minus).ravel()
            return self._values(weights) @ shift if reads else shift

        layer.inputs = np.array([given, weights, self._bias(weights, rest, key, added)], np.int32)

    def _bias(
        self, weights: int, rest: list[int], key: tuple[Any, ...], added: "Callable[[], NDArray[np.float32]]"
    ) -> int:
        if rest and rest[0] >= 0:
            old = rest[0]
            full = (*key, self._buffer(old))
            return self.derived.tensor(self.graph, old, "moved", full, lambda: self._values(old) + added())
        tensor = self.graph.tensors[weights]
        like = add_tensor(self.graph, text(tensor.name), shape_of(tensor)[:1], tensor.type)
        return self.derived.tensor(self.graph, like, "bias", key, added)

    def _values(self, number: int) -> "NDArray[np.float32]":
        values = constant(self.model, self.graph.tensors[number])
        assert values is not None, "only constants are asked for"
        return values

    def _buffer(self, number: int) -> int:
        return int(self.graph.tensors[number].buffer)
