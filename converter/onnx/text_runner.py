"""Exported graphs that write text, opened in ONNX Runtime as a `run` for the loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.generate.steps import Run


def open_graphs(files: Mapping[str, Path], threads: int = 1) -> "Run":
    """Return a `run` over one session a file, on the CPU."""
    from converter.onnx.runner import open_session

    sessions = {name: open_session(path, threads) for name, path in files.items()}
    outputs = {name: [o.name for o in session.get_outputs()] for name, session in sessions.items()}
    inputs = {name: {i.name for i in session.get_inputs()} for name, session in sessions.items()}

    def run(graph: str, feed: "Mapping[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        # An input that the model does not read is not in the file (position ids of a model without positions).
        fed = {name: rows for name, rows in feed.items() if name in inputs[graph]}
        return dict(zip(outputs[graph], sessions[graph].run(None, fed), strict=True))

    return run
