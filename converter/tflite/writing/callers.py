"""Who runs the signatures of a file that writes text, and keeps its caches from one call to the next.

LiteRT's CompiledModel takes little memory beside the file and the cache themselves. Its Interpreter is called without
XNNPACK only: with it the weights are packed for each signature, in memory of the process alone, and the whole cache is
there once more for each of them.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from converter.tflite.writing.layout import DECODE, ENCODE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.writing.signatures import Shapes

    Tensors = dict[str, NDArray[Any]]

ALIGNMENT, MARGIN = 64, 256
"""Bytes: where LiteRT wants a tensor to begin, and what its kernels may touch behind the end of one."""


class Caller(Protocol):
    """Runs signatures; the caches of a text, those of cross keys included, stay where the last call left them."""

    def put(self, caches: "Tensors") -> None:
        """Copy caches, by name and in the shapes of the file, to where calls go on from them."""

    def get(self, name: str) -> "NDArray[np.float32]":
        """Return a cache as the last call left it; the next one may write into it."""

    def __call__(self, name: str, given: "Tensors") -> "Tensors":
        """Run a signature on what it takes beside caches that were `put`; returns what it gives beside those.

        The next call of that signature may write into what was returned.
        """


class CarriedCaches:
    """Caches that are given to every call, and taken from what it returns."""

    def __init__(self, call: "Callable[[str, Tensors], Tensors]") -> None:
        self._call = call
        self._caches: Tensors = {}

    def put(self, caches: "Tensors") -> None:
        self._caches |= {name: values.copy() for name, values in caches.items()}

    def get(self, name: str) -> "NDArray[np.float32]":
        return self._caches[name]

    def __call__(self, name: str, given: "Tensors") -> "Tensors":
        if name.startswith(ENCODE):
            return self._call(name, given)
        made = self._call(name, given | self._caches)
        self._caches |= {n: made.pop(n) for n in self._caches.keys() & made.keys()}
        return made


class Interpreted:
    """Calls signatures of LiteRT's Interpreter by name, caches among the tensors that they take and give."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._signatures: dict[str, Any] = {}

    def __call__(self, name: str, given: "Tensors") -> "Tensors":
        # Memory is laid out when a signature is first asked for.
        if name not in self._signatures:
            self._signatures[name] = self._interpreter.get_signature_runner(name)
        made: Tensors = self._signatures[name](**given)
        return made


class CompiledSignatures:
    """Calls signatures of a file in LiteRT's CompiledModel; caches lie in one place for all of them, written there.

    `tensors` are those that each signature takes, and those that it gives. LiteRT is not asked for them: to say
    what a signature gives, or to make a buffer for it, it lays out memory for all its tensors, caches included, before
    it is told where those lie; the first call would lay that out once more, and copy all of it.
    """

    def __init__(self, model: Any, tensors: "Mapping[str, tuple[Shapes, Shapes]]") -> None:
        self._model, self._tensors = model, tensors
        self._buffers: dict[tuple[str, str], Any] = {}
        self._outputs: dict[str, dict[str, tuple[NDArray[Any], Any]]] = {}

    def put(self, caches: "Tensors") -> None:
        for name, values in caches.items():
            self._buffer(DECODE, name).write(values)

    def get(self, name: str) -> "NDArray[np.float32]":
        shape, _ = self._tensors[DECODE][0][name]
        made: NDArray[np.float32] = self._buffer(DECODE, name).read(prod(shape), np.float32)
        return made.reshape(shape)

    def __call__(self, name: str, given: "Tensors") -> "Tensors":
        takes, gives = self._tensors[name]
        inputs = {n: self._buffer(name if n in given else DECODE, n) for n in takes}
        for tensor, values in given.items():
            inputs[tensor].write(values)
        if name not in self._outputs:
            self._outputs[name] = {n: _output_buffer(*gives[n]) for n in gives if n not in self._tensors[DECODE][0]}
        buffers = self._outputs[name]
        outputs = {n: buffers[n][1] if n in buffers else self._buffer(DECODE, n) for n in gives}
        self._model.run_by_name(name, inputs, outputs)
        # Cross keys lie where they are read already; a copy of them goes with their text.
        cross = {n: self.get(n) for n in gives if n not in inputs and n not in buffers}
        return {n: values for n, (values, _) in buffers.items()} | cross

    def _buffer(self, signature: str, name: str) -> Any:
        if (signature, name) not in self._buffers:
            self._buffers[signature, name] = self._model.create_input_buffer_by_name(signature, name)
        return self._buffers[signature, name]


def _output_buffer(shape: tuple[int, ...], dtype: str) -> "tuple[NDArray[Any], Any]":
    """Return an array that LiteRT writes an output to, and what LiteRT knows it by."""
    from ai_edge_litert.tensor_buffer import TensorBuffer

    size = prod(shape) * np.dtype(dtype).itemsize
    whole = np.zeros(size + ALIGNMENT + MARGIN, dtype=np.uint8)
    begin = -whole.ctypes.data % ALIGNMENT
    values = whole[begin : begin + size].view(dtype).reshape(shape)
    return values, TensorBuffer.create_from_host_memory(values)
