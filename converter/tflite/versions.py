"""What a TFLite file demands of the runtime that opens it: operation versions, and the least runtime by name.

ai-edge-quantizer 0.10 changes weights and leaves both as they were: a runtime that knows one scale a tensor would open
a file whose rows have a scale each, and need not fail to compute something else. With the versions of TensorFlow's own
table (`op_version.cc`, `runtime_version.cc`) an older runtime refuses the file by name.
"""

from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import add_buffer, bytes_of, code_of, inputs_of, text

if TYPE_CHECKING:
    from converter.tflite.schema import Graph, Model, Operator

KEY = "min_runtime_version"
METADATA_BYTES = 16
"""Of a version in the file's metadata, filled up with zeros."""
SCALES_A_ROW = {"FULLY_CONNECTED": (12, "2.17.0"), "EMBEDDING_LOOKUP": (4, "2.18.0")}
"""Version of the operation, and of the runtime, that take int8 weights with a scale a row beside float activations."""
STATIC_INT8 = (4, "1.14.0")
FOUR_BITS = {"FULLY_CONNECTED": (14, "2.21.0"), "EMBEDDING_LOOKUP": (5, "2.21.0")}
"""Weights of 4 bits: LiteRT up to 1.2 opens such a file at its original operator version, and gives wrong answers.
These versions are the lowest that it does not know."""


def state_versions(model: "Model") -> None:
    """Raise the versions in `model`, in place, to what its quantized weights need."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    kinds = {getattr(BuiltinOperator, name): name for name in SCALES_A_ROW}
    least = [stated_version(model)]
    for graph in model.subgraphs:
        for operation in graph.operators:
            kind = kinds.get(code_of(model, operation))
            if kind is not None:
                version, runtimes = _needed(graph, operation, kind)
                code = model.operatorCodes[operation.opcodeIndex]
                code.version = max(code.version, version)
                least += runtimes
    _state(model, max(least, key=as_numbers))


def stated_version(model: "Model") -> str:
    """Return the least runtime that `model` names itself; empty where it names none."""
    for entry in model.metadata or ():
        if text(entry.name) == KEY:
            return bytes_of(model, entry.buffer).tobytes().rstrip(b"\0").decode("ascii", "replace")
    return ""


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _needed(graph: "Graph", operation: "Operator", kind: str) -> tuple[int, list[str]]:
    """Return the version of the operation, and the runtimes, that its weight needs."""
    from ai_edge_litert.schema_py_generated import TensorType

    given, weight = (graph.tensors[t] for t in inputs_of(operation)[:2])
    scales = weight.quantization
    version, runtimes = 1, list[str]()
    if weight.type == TensorType.INT4:
        version, runtime = FOUR_BITS[kind]
        return version, [runtime]
    if weight.type != TensorType.INT8 or scales is None or scales.scale is None:
        return version, runtimes
    if kind == "FULLY_CONNECTED" and given.type != TensorType.FLOAT32:
        version, runtime = STATIC_INT8
        runtimes.append(runtime)
    elif len(scales.scale) > 1:
        version, runtime = SCALES_A_ROW[kind]
        runtimes.append(runtime)
    return version, runtimes


def _state(model: "Model", version: str) -> None:
    from ai_edge_litert.schema_py_generated import MetadataT

    number = add_buffer(model, np.frombuffer(version.encode().ljust(METADATA_BYTES, b"\0"), np.uint8))
    others = [entry for entry in model.metadata or () if text(entry.name) != KEY]
    model.metadata = [*others, MetadataT(KEY, number)]
