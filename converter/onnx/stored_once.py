"""The weights of an ONNX file, as they are stored: none may be in it twice."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.validate.checks import Check
from converter.validate.stored_once import LEAST_BYTES, check_repeats

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_stored_once(paths: Iterable[Path]) -> Check:
    """Judge the weights of ONNX files, each file on its own."""
    return check_repeats(paths, _weights)


def _weights(path: Path) -> "Iterator[tuple[str, NDArray[Any]]]":
    from converter.onnx.read import read_onnx

    for name, value in read_onnx(path).graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LEAST_BYTES:  # small ones are not read
            yield str(name), tensor.numpy()
