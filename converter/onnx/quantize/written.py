"""What flows through one graph of a model that writes text while it reads a text and writes after it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample
from converter.onnx.activations import write_observed
from converter.resources import release_memory

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.examples import Encoding
    from converter.graphs import Run
    from converter.onnx.model import OnnxModel
    from converter.stage import Context, Progress


def written_texts(given: "OnnxModel", ctx: "Context", count: int) -> "list[Encoding]":
    """Return texts of the calibration text as the model reads them, each with what it writes after it."""
    source: Any = given.source
    texts = even_sample(ctx.calibration, count)
    run = _lean_run(given)
    made = []
    with ctx.progress.task("Writing calibration text", total=len(texts)) as ticker:
        for text in texts:
            encoding = source.task.encode(source.tokenizer, text, source.max_length)
            made.append(source.task.continued(source.specs, run, encoding))
            ticker.advance()
    release_memory()
    return made


def stream_written(
    model: "ir.Model",
    graph: str,
    names: Sequence[str],
    given: "OnnxModel",
    texts: "Sequence[Encoding]",
    work: Path,
    progress: "Progress",
) -> "Iterator[dict[str, NDArray[np.float32]]]":
    """Yield, for each text, the values of `model` (one of `given`'s graphs) called `names` as `[tokens, width]`."""
    from converter.onnx.runner import open_lean_session

    path = work / "observed.onnx"
    write_observed(model, names, path)
    session = open_lean_session(path)
    source, others = given.source, _lean_run(given, without=graph)
    known = [o.name for o in session.get_outputs()]
    seen: dict[str, list[NDArray[np.float32]]] = {}

    def run(asked: str, feed: "Mapping[str, NDArray[Any]]") -> "Mapping[str, NDArray[Any]]":
        if asked != graph:
            return others(asked, feed)
        made = dict(zip(known, session.run(known, {i.name: feed[i.name] for i in session.get_inputs()}), strict=True))
        for name in names:
            seen.setdefault(name, []).append(made[name].reshape(-1, made[name].shape[-1]))
        return made

    try:
        with progress.task("Watching activations", total=len(texts)) as ticker:
            for text in texts:
                seen.clear()
                source.task.answer(source.specs, run, source.task.feed(source.specs, [text]))
                yield {name: np.concatenate(rows) for name, rows in seen.items()}
                ticker.advance()
    finally:
        # Also when the reader has seen enough and leaves.
        del session
        path.unlink()
        release_memory()


def _lean_run(given: "OnnxModel", without: str | None = None) -> "Run":
    from converter.onnx.runner import OnnxRunner, open_lean_session

    files = {name: path for name, path in given.files.items() if name != without}
    if not files:
        return lambda graph, feed: {}
    return OnnxRunner(files, sessions={name: open_lean_session(path) for name, path in files.items()}).run
