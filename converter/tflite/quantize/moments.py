"""What passes into the linear layers of a TFLite file on real text: second moments of their inputs."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np

from converter.stage import Context
from converter.tflite.file import code_of, constant, inputs_of, read_flat, text, write_flat
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.model import SIGNATURE, TfliteModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH = 64
"""Tokens of a text, where the file has a signature as long."""
SEEN = "seen."


@dataclass
class Moments:
    """Of one layer's input `[tokens, width]`."""

    squares: "NDArray[np.float32]"
    count: int = 0

    @classmethod
    def empty(cls, width: int) -> "Moments":
        return cls(np.zeros((width, width), np.float32))

    def add(self, values: "NDArray[np.float32]") -> None:
        self.squares += values.T @ values
        self.count += len(values)

    def divided(self, factors: "NDArray[np.float32]") -> "Moments":
        """Return the moments of the same input with each channel divided."""
        return Moments((self.squares / np.outer(factors, factors)).astype(np.float32), self.count)

    @property
    def second(self) -> "NDArray[np.float32]":
        return np.asarray(self.squares / max(1, self.count), dtype=np.float32)


def input_moments(given: TfliteModel, ctx: Context, texts: int) -> dict[int, Moments]:
    """Run `texts` rows of the float file; returns moments by the weights' buffer, of all layers that share it."""
    from ai_edge_litert.interpreter import Interpreter

    length = next((n for n in given.lengths if n >= LENGTH), given.lengths[-1])
    key = f"{SIGNATURE}{length}"
    path = Path(mkdtemp(prefix="tflite-moments-", dir=ctx.work)) / "model.tflite"
    layers = _exposed(given.path, key, path)
    run = Interpreter(str(path), num_threads=1).get_signature_runner(key)
    made: dict[int, Moments] = {}
    with ctx.progress.task("Measuring inputs of linear layers", total=texts) as ticker:
        for row in filled_rows(given.source, ctx, length, texts):
            found = run(**{name: ids[None].astype(np.int32) for name, ids in row.inputs.items()})
            for name, buffers in layers.items():
                values = found[name].reshape(-1, found[name].shape[-1])
                # Queries, keys and values have one input, and one account of it.
                known = next((made[b] for b in buffers if b in made), None) or Moments.empty(values.shape[1])
                known.add(values)
                made |= dict.fromkeys(buffers, known)
            ticker.advance()
    path.unlink()
    return made


def _exposed(given: Path, key: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Write one signature with the inputs of its linear layers as outputs; returns their weights' buffers by name.

    As outputs they survive in XNNPACK, which is many times quicker than kernels that keep every tensor.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorMapT

    model = read_flat(given)
    signature = next(s for s in model.signatureDefs if text(s.signatureKey) == key)
    graph = model.subgraphs[signature.subgraphIndex]
    found: dict[int, list[int]] = {}
    for op in graph.operators:
        if code_of(model, op) == BuiltinOperator.FULLY_CONNECTED:
            tensor, held, *_ = inputs_of(op)
            if constant(model, graph.tensors[held]) is not None:
                found.setdefault(tensor, []).append(int(graph.tensors[held].buffer))
    model.subgraphs, model.signatureDefs, signature.subgraphIndex = [graph], [signature], 0
    graph.outputs = np.array([*graph.outputs, *found], np.int32)
    signature.outputs = [*signature.outputs, *(TensorMapT(f"{SEEN}{t}", t) for t in found)]
    names = {f"{SEEN}{t}": tuple(dict.fromkeys(buffers)) for t, buffers in found.items()}
    write_flat(model, path)
    return names
