"""The weights of a TFLite file, as they are stored: none may be in it twice, whatever the number of signatures."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.tflite.file import bytes_of, constant, shared_flat, text
from converter.validate.checks import Check
from converter.validate.stored_once import check_repeats

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_stored_once(path: Path) -> Check:
    """Judge the weights of a file."""
    return check_repeats([path], _weights)


def _weights(path: Path) -> "Iterator[tuple[str, NDArray[Any]]]":
    """Yield each buffer once, whatever the number of tensors that are it; as bytes where numpy lacks its type."""
    model, done = shared_flat(path), set[int]()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            held = bytes_of(model, tensor.buffer)
            if tensor.buffer in done or not len(held):
                continue
            done.add(tensor.buffer)
            values = constant(model, tensor)
            yield text(tensor.name), held if values is None else values
