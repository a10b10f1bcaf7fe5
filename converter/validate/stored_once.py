"""Every weight is in a file once: an exporter that unties a tied table, or folds it turned, makes it twice as large."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = Iterable[tuple[str, NDArray[Any]]]

LEAST_BYTES = 4096
"""Smaller constants may be alike by chance: biases of nothing, ranges of positions."""
MOST_TWICE = 0.05
"""Of a file's bytes, those that are in it already."""


def check_repeats(paths: Iterable[Path], weights_of: "Callable[[Path], Weights]") -> Check:
    """Judge the weights of files, each file on its own: those that are another one, or another one turned.

    `weights_of` yields name and values of each weight of a file, as they are stored.
    """
    worst, told = 0.0, "no weight is in a file twice"
    for path in paths:
        twice = _repeated(weights_of(path))
        # Weights of a large model lie beside its graph (`model.onnx_data`).
        share = sum(twice.values()) / sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
        if share > worst:
            worst = share
            told = f"{share:.0%} of {path.name} is in it twice: {', '.join(sorted(twice)[:3])}"
    status = Status.PASS if worst <= MOST_TWICE else Status.FAIL
    return Check("stored once", status, worst, MOST_TWICE, f"{told}; at most {MOST_TWICE:.0%} is allowed")


def _repeated(weights: "Weights") -> dict[str, int]:
    """Return the weights that another one is equal to, as it is or turned, with their bytes."""
    known: set[bytes] = set()
    found = {}
    for name, array in weights:
        if array.nbytes < LEAST_BYTES:
            continue
        digests = {_digest(array), *([_digest(array.T)] if array.ndim == 2 else [])}
        if digests & known:
            found[name] = int(array.nbytes)
        known |= digests
    return found


def _digest(array: "NDArray[Any]") -> bytes:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
