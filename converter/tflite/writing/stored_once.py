"""Every weight is in a TFLite file once, whatever the number of its signatures, and a tied table too."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.tflite.file import bytes_of, constant, read_flat, shape_of, text
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_BYTES = 4096
"""Smaller constants may be alike by chance: biases of nothing, ranges of positions."""
MOST_TWICE = 0.05
"""Of a file's bytes, those that are in it already."""


def check_stored_once(path: Path) -> Check:
    """Judge the weights of a file: those that are another one, or another one turned."""
    twice = stored_twice(path)
    share = sum(twice.values()) / path.stat().st_size
    told = (
        f"{share:.0%} of {path.name} is in it twice: {', '.join(sorted(twice)[:3])}"
        if twice
        else "no weight is in a file twice"
    )
    status = Status.PASS if share <= MOST_TWICE else Status.FAIL
    return Check("stored once", status, share, MOST_TWICE, f"{told}; at most {MOST_TWICE:.0%} is allowed")


def stored_twice(path: Path) -> dict[str, int]:
    """Return the weights of a file that another buffer of it is equal to, as it is or turned, with their bytes."""
    model = read_flat(path)
    known: set[bytes] = set()
    done: set[int] = set()
    found = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            held = bytes_of(model, tensor.buffer)
            if tensor.buffer in done or len(held) < LEAST_BYTES:
                continue
            done.add(tensor.buffer)
            values = constant(model, tensor)
            array = held if values is None else values.reshape(shape_of(tensor))
            digests = {_digest(array), *([_digest(array.T)] if array.ndim == 2 else [])}
            if digests & known:
                found[text(tensor.name)] = len(held)
            known |= digests
    return found


def _digest(array: "NDArray[Any]") -> bytes:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
