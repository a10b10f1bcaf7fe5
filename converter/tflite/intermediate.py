"""Every value inside a TFLite graph on one text, as `explain` compares them with the layers of the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.graphs import GraphSpec
from converter.tflite.model import ANY_SIGNATURE, BATCH, SIGNATURE, lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def tflite_values(
    path: Path, spec: GraphSpec, feed: "Mapping[str, NDArray[np.int64]]"
) -> "dict[str, NDArray[np.float32]]":
    """Return each value of the graph that takes `feed` (one text), dequantized, in the order in which they are made.

    LiteRT's own kernels run, without a delegate that would merge what is to be looked at. Constants are left out.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(path),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    lengths, any_up_to = lengths_of([n for n in interpreter.get_signature_list() if BATCH not in n])
    length = feed["input_ids"].shape[1]
    fitting = next((n for n in lengths if n >= length), length)
    key = f"{SIGNATURE}{fitting}" if any_up_to is None else f"{ANY_SIGNATURE}{any_up_to}"
    signature = interpreter.get_signature_runner(key)
    padded = {}
    for tensor in spec.inputs:
        padded[tensor.name] = np.full((1, fitting), tensor.fill, dtype=np.int32)
        padded[tensor.name][:, :length] = feed[tensor.name]
    outputs = signature(**padded)
    made = {}
    for graph, operations in enumerate(_made_by(path)):
        details = {d["index"]: d for d in interpreter.get_tensor_details(graph)}
        for number in operations:
            value = _value(interpreter, details[number], graph) if number in details else None
            if value is not None:
                made[f"{graph}:{number}:{details[number]['name']}"] = value
    return made | {name: np.asarray(value, dtype=np.float32) for name, value in outputs.items()}


def _made_by(path: Path) -> list[list[int]]:
    """Return, of each graph, the tensors that its operations make, in order."""
    from converter.tflite.file import outputs_of, read_flat

    return [[int(t) for op in g.operators for t in outputs_of(op)] for g in read_flat(path).subgraphs]


def _value(interpreter: Any, detail: Mapping[str, Any], graph: int) -> "NDArray[np.float32] | None":
    """Return a tensor in real numbers; None where it was never made, is one of words, or of ids."""
    if detail["dtype"] not in {np.float32, np.float16, np.int8, np.int16, np.uint8}:
        return None
    try:
        value = np.asarray(interpreter.get_tensor(detail["index"], graph))
    except (ValueError, RuntimeError):  # a graph that this signature does not run
        return None
    scales, zeros = detail["quantization_parameters"]["scales"], detail["quantization_parameters"]["zero_points"]
    if np.issubdtype(detail["dtype"], np.floating):
        return value.astype(np.float32)
    if len(scales) != 1:
        return None  # one scale a channel: a weight
    return (value.astype(np.float32) - np.float32(zeros[0])) * np.float32(scales[0])
