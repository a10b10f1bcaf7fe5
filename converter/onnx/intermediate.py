"""Every value inside an ONNX graph on one text, as `explain` compares them with the layers of the source."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOATS = frozenset({1, 10, 11})
"""ONNX's numbers of float32, float16 and float64."""


def onnx_values(path: Path, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
    """Return each float value of the graph by its name, in the order in which they are made.

    The graph runs as it is in the file: an optimizer would merge what is to be looked at.
    """
    import onnx
    import onnxruntime as ort

    from converter.onnx.branches import flatten

    model = onnx.load(str(path))
    flatten(model.graph)
    kept = {o.name for o in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    types = _types(model)
    wanted = [n for n in names if types.get(n, 1) in FLOATS and n not in kept]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, types.get(n, 1), None) for n in wanted)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    with TemporaryDirectory(prefix="plm-explain-") as work:
        file = Path(work) / "model.onnx"
        onnx.save(model, str(file), save_as_external_data=True, location="weights")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        inputs = [i.name for i in session.get_inputs()]
        outputs = [o.name for o in session.get_outputs()]
        made: dict[str, Any] = dict(zip(outputs, session.run(outputs, {n: feed[n] for n in inputs}), strict=True))
    found = {n: np.asarray(made[n]) for n in names if n in made}
    return {n: v.astype(np.float32) for n, v in found.items() if np.issubdtype(v.dtype, np.floating)}


def _types(model: Any) -> dict[str, int]:
    """Return the type of each value that shape inference tells; those that it does not know are not in it."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # noqa: BLE001 - operators of other domains may stop it: floats are then guessed
        inferred = model
    return {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
