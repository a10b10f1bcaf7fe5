"""Which linear layers of a TFLite file lose most by 4 bits: those that a mixed file keeps in 8."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import code_of, inputs_of, outputs_of, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.quantize.smooth import Fitted
    from converter.tflite.schema import Model, Operator

SHARES = tuple(float(x) for x in np.linspace(0.5, 1.0, 11))
"""Of the largest weight of a block, that the scale may reach up to."""


def block_scales(found: "Fitted", block: int, largest: int) -> "NDArray[np.float32]":
    """Return scales `[out, in / block]`: of those that clip more or less, the one with least error on what comes in.

    Errors are weighed by how strong each input is; that inputs go together is left to the rounding.
    """
    n_out, n_in = found.weights.shape
    blocks = found.weights.reshape(n_out, n_in // block, block)
    strength = np.diag(found.moments).reshape(n_in // block, block)
    reach = np.maximum(np.abs(blocks).max(axis=2), 1e-6) / largest
    best, least = reach, np.full(reach.shape, np.inf)
    for share in SHARES:
        steps = _half(reach * share)
        made = np.clip(np.rint(blocks / steps[:, :, None]), -largest, largest) * steps[:, :, None]
        lost = (np.square(made - blocks) * strength).sum(axis=2)
        best, least = np.where(lost < least, steps, best), np.minimum(lost, least)
    return np.asarray(best, dtype=np.float32)


def most_sensitive(model: "Model", fitted: "Mapping[str, Fitted]", share: float, block: int, largest: int) -> list[str]:
    """Return the outputs of the layers to keep: `share` of all weights, those that lose most by their number.

    Layers whose inputs blocks do not divide (a pruned model has them) are kept whatever they lose. What a layer
    loses is the error of its output over the output itself, both as squares on real text.
    """
    layers: dict[int, list[str]] = {}
    known: dict[int, Fitted] = {}
    for graph in model.subgraphs:
        for op in graph.operators:
            found = fitted.get(text(graph.tensors[inputs_of(op)[1]].name)) if _is_linear(model, op) else None
            if found is not None:
                known[id(found)] = found
                layers.setdefault(id(found), []).append(text(graph.tensors[outputs_of(op)[0]].name))
    misfits = [key for key, found in known.items() if found.weights.shape[1] % block]
    losses = {k: noise(f, block, largest) / f.weights.size for k, f in known.items() if k not in misfits}
    room = share * sum(found.weights.size for found in known.values())
    names = [name for key in misfits for name in layers[key]]
    for key in sorted(losses, key=lambda k: -losses[k]):
        if known[key].weights.size <= room:
            room -= known[key].weights.size
            names += layers[key]
    return names


def noise(found: "Fitted", block: int, largest: int) -> float:
    """Return the squared error of a layer's output in blocks of integers up to `largest`, over the output's square."""
    steps = np.repeat(block_scales(found, block, largest), block, axis=1)
    off = np.clip(np.rint(found.weights / steps), -largest, largest) * steps - found.weights
    lost, all_of_it = (float(((w @ found.moments) * w).sum()) for w in (off, found.weights))
    return lost / max(all_of_it, 1e-30)


def _is_linear(model: "Model", op: "Operator") -> bool:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return code_of(model, op) == BuiltinOperator.FULLY_CONNECTED


def _half(steps: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return scales as the file holds them: in half precision, none of them zero."""
    return np.maximum(steps.astype(np.float16), np.float16(6e-5)).astype(np.float64)
