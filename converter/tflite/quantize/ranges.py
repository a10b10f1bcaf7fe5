"""What passes through the linear layers of a TFLite file on real text: streamed, so that no activation is kept."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.stage import Context
from converter.tflite.lengths.rows import filled_rows
from converter.tflite.model import SIGNATURE, TfliteModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer of one signature, by the tensors that it takes and makes."""

    given: int
    made: int
    given_name: str
    made_name: str


@dataclass
class Activation:
    """Statistics of one tensor over all texts seen."""

    low: float = 0.0
    high: float = 0.0
    total: float = 0.0
    """Sum of magnitudes: squares would let an outlier hide what it drowns."""
    count: int = 0

    def add(self, values: "NDArray[np.float32]") -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self.total += float(np.abs(values).sum(dtype=np.float64))
        self.count += values.size

    @property
    def snr(self) -> float:
        """Mean magnitude to noise in decibels if stored in 8 bits over the whole range: rounding noise is step²/12."""
        step = (self.high - self.low) / 255
        mean = self.total / max(1, self.count)
        return 10 * math.log10(12 * mean**2 / step**2) if step > 0 and mean > 0 else math.inf


def linear_layers(path: Path) -> dict[int, tuple[int, list[LinearLayer]]]:
    """Return, by signature length, the subgraph and its linear layers."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, Model

    found = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        for s in range(model.SignatureDefsLength()):
            signature = model.SignatureDefs(s)
            graph = model.Subgraphs(signature.SubgraphIndex())
            operations = [graph.Operators(i) for i in range(graph.OperatorsLength())]
            layers = [
                LinearLayer(*pair, *(graph.Tensors(t).Name().decode() for t in pair))
                for op in operations
                if model.OperatorCodes(op.OpcodeIndex()).BuiltinCode() == BuiltinOperator.FULLY_CONNECTED
                for pair in ((int(op.Inputs(0)), int(op.Outputs(0))),)
            ]
            length = int(signature.SignatureKey().decode().removeprefix(SIGNATURE))
            found[length] = (signature.SubgraphIndex(), layers)
    return found


def measure(given: TfliteModel, ctx: Context, texts: int) -> tuple[list[LinearLayer], dict[str, Activation]]:
    """Run `texts` rows of every length; return all linear layers, and the statistics of their tensors by name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    layers = linear_layers(given.path)
    seen: dict[str, Activation] = {}
    with ctx.progress.task("Measuring ranges", total=texts * len(given.lengths)) as ticker:
        for length in given.lengths:
            # One at a time: an interpreter that keeps every tensor holds them until it goes.
            interpreter = Interpreter(
                str(given.path),
                num_threads=1,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            run = interpreter.get_signature_runner(f"{SIGNATURE}{length}")
            graph, linear = layers[length]
            tensors = {t: n for x in linear for t, n in ((x.given, x.given_name), (x.made, x.made_name))}
            for row in filled_rows(given.source, ctx, length, texts):
                run(**{name: ids[None].astype(np.int32) for name, ids in row.inputs.items()})
                for tensor, name in tensors.items():
                    seen.setdefault(name, Activation()).add(interpreter.get_tensor(tensor, graph))
                ticker.advance()
    return [x for _, linear in layers.values() for x in linear], seen
