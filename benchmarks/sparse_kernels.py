"""One linear layer with zeros in LiteRT: which kernels take a sparse weight, and what they gain over dense ones.

    python benchmarks/sparse_kernels.py

A `FULLY_CONNECTED` of 384 x 1536 (MiniLM's) over 26 and 128 tokens, weights dense and in TFLite's sparse formats:
single weights (CSR), blocks of 1 x 4 in float32 and of 1 x 16 in int8, the only ones that LiteRT's kernels know. Says
for each its time, one thread, all in turn, and how many times as fast that is as XNNPACK with the dense weight at the
same precision. XNNPACK does not know the formats for this operation (its sparse inference is for convolutions): it read
a sparse weight as a dense one, past its end, and the process died. So those run on LiteRT's own kernels, without it.
Writes `benchmarks/results/sparse_kernels.json`.
"""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_IN, N_OUT = 384, 1536
TOKENS = (26, 128)
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
ROUNDS = 25
FULLY_CONNECTED = 9


@dataclass(frozen=True)
class Kind:
    """How a weight is stored."""

    name: str
    integer: bool
    span: int
    """Neighbouring inputs that are zero together."""
    sparse: bool


KINDS = (
    Kind("dense float32", integer=False, span=1, sparse=False),
    Kind("dense int8", integer=True, span=1, sparse=False),
    Kind("single weights float32", integer=False, span=1, sparse=True),
    Kind("blocks 1x4 float32", integer=False, span=4, sparse=True),
    Kind("blocks 1x16 int8", integer=True, span=16, sparse=True),
)


def main() -> int:
    rows = []
    for tokens in TOKENS:
        given = np.random.default_rng(0).standard_normal((tokens, N_IN)).astype(np.float32)
        for share in SHARES:
            layers = {kind.name: Layer(kind, share, given) for kind in KINDS}
            for _ in range(ROUNDS):
                for layer in layers.values():
                    layer.time()
            for kind in KINDS:
                layer, dense = layers[kind.name], layers["dense int8" if kind.integer else "dense float32"]
                rows.append(
                    {
                        "tokens": tokens,
                        "zeros": share,
                        "weight": kind.name,
                        "xnnpack": layer.delegated,
                        "error": round(layer.error, 6),
                        "milliseconds": round(1000 * min(layer.times), 4),
                        "speedup": round(min(dense.times) / min(layer.times), 3),
                    }
                )
                print(rows[-1], flush=True)
    save("sparse_kernels", {"machine": machine(), "rows": rows})
    return 0


class Layer:
    """One layer in an interpreter of its own."""

    def __init__(self, kind: Kind, share: float, given: "NDArray[np.float32]") -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        rng = np.random.default_rng(1)
        weight = rng.standard_normal((N_OUT, N_IN)).astype(np.float32)
        weight[(rng.random((N_OUT, N_IN // kind.span)) < share).repeat(kind.span, axis=1)] = 0
        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if kind.sparse else OpResolverType.AUTO
        content = model_of(kind, weight, len(given))
        self._interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], given)
        self._interpreter.invoke()
        made, wanted = (
            self._interpreter.get_tensor(self._interpreter.get_output_details()[0]["index"]),
            given @ weight.T,
        )
        self.error = float(np.abs(made - wanted).max() / np.abs(wanted).max())
        # The interpreter's own list of operations tells what was delegated, and nothing else does.
        self.delegated = any(o["op_name"] == "DELEGATE" for o in self._interpreter._get_ops_details())  # noqa: SLF001
        self.times: list[float] = []

    def time(self) -> None:
        self._interpreter.invoke()
        started = time.perf_counter()
        self._interpreter.invoke()
        self.times.append(time.perf_counter() - started)


def model_of(kind: Kind, weight: "NDArray[np.float32]", tokens: int) -> bytes:
    """Return a TFLite file of one `FULLY_CONNECTED` with this weight."""
    from ai_edge_litert import schema_py_generated as schema

    from converter.tflite.builder import packed
    from converter.tflite.file import add_buffer, add_tensor

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    graph.name, graph.tensors = "main", []
    real = schema.TensorType.FLOAT32
    stored, scale = weight, None
    if kind.integer:
        # Sparse int8 kernels take one scale a tensor.
        scale = np.full(1 if kind.sparse else N_OUT, np.abs(weight).max() / 127, np.float32)
        stored = np.clip(np.rint(weight / scale[0]), -127, 127).astype(np.int8)
    given = add_tensor(graph, "given", (tokens, N_IN), real)
    data, sparsity = sparse(stored, kind.span) if kind.sparse else (stored, None)
    matrix = add_tensor(
        graph, "weight", weight.shape, schema.TensorType.INT8 if kind.integer else real, add_buffer(model, data)
    )
    graph.tensors[matrix].sparsity = sparsity
    if scale is not None:
        zero = np.zeros(len(scale), np.int64)
        graph.tensors[matrix].quantization = schema.QuantizationParametersT(scale=scale, zeroPoint=zero)
    bias = add_tensor(graph, "bias", (N_OUT,), real, add_buffer(model, np.zeros(N_OUT, np.float32)))
    made = add_tensor(graph, "made", (tokens, N_OUT), real)
    graph.operators = [operator(schema, [given, matrix, bias], made)]
    graph.inputs, graph.outputs = np.array([given], np.int32), np.array([made], np.int32)
    model.operatorCodes = [schema.OperatorCodeT(FULLY_CONNECTED, version=9, builtinCode=FULLY_CONNECTED)]
    return bytes(packed(model))


def operator(schema: Any, inputs: list[int], made: int) -> Any:
    found = schema.OperatorT()
    found.opcodeIndex, found.inputs, found.outputs = 0, np.array(inputs, np.int32), np.array([made], np.int32)
    found.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    found.builtinOptions = schema.FullyConnectedOptionsT()
    return found


def sparse(weight: "NDArray[Any]", span: int) -> "tuple[NDArray[Any], Any]":
    """Return the pieces of `span` inputs that are not zero, row by row, and TFLite's table of where they are."""
    from ai_edge_litert import schema_py_generated as schema

    pieces = weight.reshape(len(weight), -1, span)
    there = (pieces != 0).any(axis=2)
    rows, columns = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    rows.format, rows.denseSize = schema.DimensionType.DENSE, len(weight)
    columns.format = schema.DimensionType.SPARSE_CSR
    ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    for name, values in (("arraySegments", ends), ("arrayIndices", np.nonzero(there)[1].astype(np.int32))):
        vector = schema.Int32VectorT()
        vector.values = values
        setattr(columns, name, vector)
        setattr(columns, f"{name}Type", schema.SparseIndexVector.Int32Vector)
    made = schema.SparsityParametersT()
    made.traversalOrder, made.dimMetadata = np.array([0, 1], np.int32), [rows, columns]
    if span > 1:
        inside = schema.DimensionMetadataT()
        inside.format, inside.denseSize = schema.DimensionType.DENSE, span
        made.traversalOrder, made.blockMap = np.array([0, 1, 2], np.int32), np.array([1], np.int32)
        made.dimMetadata = [rows, columns, inside]
    return pieces[there], made


if __name__ == "__main__":
    sys.exit(main())
