"""Which operations of a TFLite file leave the GPU delegate, why, and the rewrite that avoids it: read from the file.

TensorFlow's own analyzer was to say so, but those of TensorFlow 2.21 and LiteRT 2.3 are built without the check: they
call every file compatible, one with an int32 `CUMSUM` too. So its rules (what the delegate's parser takes) are written
down here; where an analyzer does warn, its words are kept beside.
"""

import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter.tflite.file import shared_flat
from converter.tflite.lengths.shared import shared_graph
from converter.tflite.positions import ANY

FACT = "gpu_forecast"
FLOATS = frozenset({"FLOAT32", "FLOAT16"})
TAKEN = frozenset(
    """ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV
    FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
    LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE
    REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT
    SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STABLEHLO_CLAMP
    STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV""".split()  # noqa: SIM905 - a list of names reads as text
)
"""What the delegate's parser knows (TensorFlow 2.21)."""
ANY_LENGTH = "any_length"
"""In place of an operation's name: no operation of such a file has a shape that a delegate could compile."""
PAIRWISE = {"DIV", "EQUAL", "GREATER", "LESS", "LOGICAL_AND", "MAXIMUM", "MINIMUM", "NOT_EQUAL", "SUB"}
REWRITES = {
    "GATHER_ND": "look rows up with int32 ids in a table (EMBEDDING_LOOKUP), or make masks by sums and products",
    "CUMSUM": "cumulate in float32 and cast the result; or feed position ids as an input",
    "SELECT": "float32 branches of the output's shape; or mask by multiplying and adding",
    "SELECT_V2": "float32 branches of the output's shape; or mask by multiplying and adding",
    "CAST": "go through float32: the delegate casts between float32 and int32, and between float and bool",
    "GATHER": "gather from float32 with one-dimensional int32 indices",
    "SLICE": "give the tensor three or four dimensions first (RESHAPE costs nothing)",
    "STRIDED_SLICE": "give the tensor three or four dimensions first (RESHAPE costs nothing)",
    "LOGICAL_OR": "the maximum of two float32 masks",
    "LOGICAL_NOT": "1 minus a float32 mask",
    "BROADCAST_TO": "let ADD or MUL broadcast",
    "WHILE": "`--target tflite:graphs=separate` makes one graph of fixed shapes per sequence length",
}
OTHER_REWRITE = "keep that part on the CPU: the delegate runs what is before and after it"


@dataclass(frozen=True)
class OffGpu:
    """One kind of operation that leaves the GPU, for one reason."""

    operation: str
    count: int
    why: str
    rewrite: str


@dataclass(frozen=True)
class TensorKind:
    type: str
    shape: tuple[int, ...]
    constant: bool


@dataclass(frozen=True)
class GpuForecast:
    """For the file's first signature, its longest."""

    operations: int
    leaving: tuple[OffGpu, ...]
    partitions: int
    """Pieces that the delegate would cut the graph into; 1: it runs whole, 0: nothing runs there."""

    @property
    def sentence(self) -> str:
        n = sum(x.count for x in self.leaving)
        if not n:
            return f"all {self.operations} operations are supported by the GPU delegate"
        names = ", ".join(f"{x.operation} ({x.why})" for x in self.leaving[:3])
        pieces = f"{self.partitions} piece{'s' if self.partitions != 1 else ''}"
        return (
            f"{n} of {self.operations} operations are not supported by the GPU delegate, which runs {pieces}: {names}"
        )

    def facts(self) -> dict[str, Any]:
        """Return what the manifest keeps, and in a line what the report shows."""
        stay = self.operations - sum(x.count for x in self.leaving)
        return {
            FACT: {**asdict(self), "sentence": self.sentence},
            "gpu_delegate": f"{stay} of {self.operations} operations",
        }


def forecast_gpu(path: Path) -> GpuForecast:
    """Judge every operation of the first signature by the delegate's rules. Nothing is run."""
    rows = list(_operations(path))
    if rows and rows[0][0] == "WHILE":
        # What it calls is cut into no pieces at all.
        n = _called(path)
        return GpuForecast(
            n, (OffGpu("WHILE", n, "the file has one graph for all sequence lengths", REWRITES["WHILE"]),), 0
        )
    if _takes_any_length(path):
        return GpuForecast(len(rows), (OffGpu(ANY_LENGTH, len(rows), "its shapes are dynamic", REWRITES["WHILE"]),), 0)
    reasons = [(name, reason(name, given, made)) for name, given, made in rows]
    counts = Counter((name, why) for name, why in reasons if why)
    stays = [not why for _, why in reasons]
    pieces = sum(now and not before for before, now in zip([False, *stays], stays, strict=False))
    leaving = tuple(
        OffGpu(name, n, why, REWRITES.get(name, OTHER_REWRITE)) for (name, why), n in sorted(counts.items())
    )
    return GpuForecast(len(rows), leaving, pieces)


def _operations(path: Path) -> Iterator[tuple[str, list[TensorKind], list[TensorKind]]]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, Model, TensorType

    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    types = {code: name for name, code in vars(TensorType).items() if isinstance(code, int)}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        graph = model.Subgraphs(0)
        made = {int(t) for i in range(graph.OperatorsLength()) for t in graph.Operators(i).OutputsAsNumpy()}
        runtime = made | {int(t) for t in graph.InputsAsNumpy()}

        def tensor(index: int) -> TensorKind:
            found = graph.Tensors(index)
            shape = () if found.ShapeIsNone() else tuple(int(n) for n in found.ShapeAsNumpy())
            return TensorKind(types[found.Type()], shape, index not in runtime)

        for i in range(graph.OperatorsLength()):
            operation = graph.Operators(i)
            code = model.OperatorCodes(operation.OpcodeIndex())
            # Older writers know the first 127 kinds by their deprecated place alone.
            name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            yield (
                name,
                [tensor(int(t)) for t in operation.InputsAsNumpy() if t >= 0],
                [tensor(int(t)) for t in operation.OutputsAsNumpy()],
            )


def _takes_any_length(path: Path) -> bool:
    graph = shared_flat(path).subgraphs[0]
    given = [graph.tensors[int(t)].shapeSignature for t in graph.inputs]
    return any(shape is not None and ANY in shape for shape in given)


def _called(path: Path) -> int:
    """Count the operations of the graph behind all signatures."""
    graph = shared_graph(shared_flat(path))
    assert graph is not None
    return len(graph.operators)


def reason(name: str, given: Sequence[TensorKind], made: Sequence[TensorKind]) -> str:
    """Return why an operation leaves the GPU; empty where it stays."""
    if name not in TAKEN:
        return "the delegate does not support the operation"
    if any(len(t.shape) > 4 for t in (*given, *made) if not t.constant):
        return "more than four dimensions"
    if name in PAIRWISE and all(t.constant for t in given):
        return "both sides are constants"
    return RULES[name](given, made) if name in RULES else ""


def _cast(given: Sequence[TensorKind], made: Sequence[TensorKind]) -> str:
    a, b = given[0].type, made[0].type
    numbers = {"FLOAT32", "INT32"}
    taken = {a, b} <= numbers or (a == "BOOL" and b in FLOATS) or (a in FLOATS and b == "BOOL")
    return "" if taken else f"from {a} to {b}"


def _cumsum(given: Sequence[TensorKind], _made: Sequence[TensorKind]) -> str:
    if given[0].type not in FLOATS:
        return f"of {given[0].type}: floats are wanted"
    return "" if given[1].constant else "its axis is no constant"


def _select(given: Sequence[TensorKind], made: Sequence[TensorKind]) -> str:
    for branch in given[1:]:
        if branch.type not in FLOATS:
            return f"of {branch.type}: floats are wanted"
        if branch.shape not in {(), (1,), made[0].shape}:
            return "a branch is of another shape than the output"
    return ""


def _gather(given: Sequence[TensorKind], _made: Sequence[TensorKind]) -> str:
    if given[0].type == "INT32":
        return "from INT32"
    flat = len(given[1].shape) == 1 and given[1].type == "INT32"
    return "" if flat else "its indices are not one-dimensional INT32"


def _lookup(given: Sequence[TensorKind], _made: Sequence[TensorKind]) -> str:
    if len(given[0].shape) != 1:
        return "its ids are not one-dimensional"
    return "" if given[1].type in {"INT8", "INT4", "FLOAT32"} else f"in a table of {given[1].type}"


def _slice(given: Sequence[TensorKind], _made: Sequence[TensorKind]) -> str:
    return "" if len(given[0].shape) in {3, 4} else f"of {len(given[0].shape)} dimensions: 3 or 4 are wanted"


RULES: dict[str, Callable[[Sequence[TensorKind], Sequence[TensorKind]], str]] = {
    "CAST": _cast,
    "CUMSUM": _cumsum,
    "SELECT": _select,
    "SELECT_V2": _select,
    "GATHER": _gather,
    "EMBEDDING_LOOKUP": _lookup,
    "SLICE": _slice,
    "STRIDED_SLICE": _slice,
    "DEQUANTIZE": lambda given, _: "from INT16" if given[0].type == "INT16" else "",
}
