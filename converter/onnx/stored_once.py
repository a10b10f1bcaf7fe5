"""Every weight is in a file once: an exporter that unties a tied table, or folds it turned, makes it twice as large."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_BYTES = 4096
"""Smaller constants may be alike by chance: biases of nothing, ranges of positions."""
MOST_TWICE = 0.05
"""Of a file's bytes, those that are in it already."""


def check_stored_once(paths: Iterable[Path]) -> Check:
    """Judge the weights of ONNX files, each file on its own: those that are another one, or another one turned."""
    worst, told = 0.0, "no weight is in a file twice"
    for path in paths:
        twice = stored_twice(path)
        share = sum(twice.values()) / path.stat().st_size
        if share > worst:
            worst = share
            told = f"{share:.0%} of {path.name} is in it twice: {', '.join(sorted(twice)[:3])}"
    status = Status.PASS if worst <= MOST_TWICE else Status.FAIL
    return Check("stored once", status, worst, MOST_TWICE, f"{told}; at most {MOST_TWICE:.0%} is allowed")


def stored_twice(path: Path) -> dict[str, int]:
    """Return the weights of a file that another one of it is equal to, as it is or turned, with their bytes."""
    from converter.onnx.read import read_onnx

    known: set[bytes] = set()
    found = {}
    for name, value in read_onnx(path).graph.initializers.items():
        if value.const_value is None or value.const_value.nbytes < LEAST_BYTES:
            continue
        array = value.const_value.numpy()
        digests = {_digest(array), *([_digest(array.T)] if array.ndim == 2 else [])}
        if digests & known:
            found[str(name)] = int(array.nbytes)
        known |= digests
    return found


def _digest(array: "NDArray[Any]") -> bytes:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
