"""What flows through one graph of a model that writes text while it reads a text and writes after it."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample
from converter.onnx.activations import write_observed
from converter.onnx.external import remove_onnx
from converter.resources import made_in_threads, release_memory

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.examples import Encoding
    from converter.graphs import Run
    from converter.onnx.model import OnnxModel
    from converter.stage import Context, Progress

MASKED = 1e30
"""What an additive mask of float32's least value leaves."""


def read_for_rounding(path: Path) -> "ir.Model":
    """Read a float graph and write what reads its cache as the operators that ONNX Runtime has for it."""
    from converter.onnx.read import read_onnx
    from converter.onnx.rewrites.order import BEFORE_ROUNDING, soundness_of
    from converter.rewrite import apply_rewrites

    model = read_onnx(path)
    apply_rewrites(BEFORE_ROUNDING, model, soundness_of(model))
    return model


def written_texts(given: "OnnxModel", ctx: "Context", count: int) -> "list[Encoding]":
    """Return texts of the calibration text as the model reads them, each with what it writes after it.

    A causal model reads a user's own text as it is: it is what the model is to write.
    """
    source: Any = given.source
    texts = even_sample(ctx.calibration, count)
    if source.task.causal and not ctx.calibration_is_builtin:
        return [source.task.encode(source.tokenizer, text, source.max_length) for text in texts]
    run = _lean_run(given)
    with ctx.progress.task("Writing calibration text"):
        encodings = [source.task.encode(source.tokenizer, text, source.max_length) for text in texts]
        made: list[Encoding] = source.task.drafted(source.specs, run, encodings)
    release_memory()
    return made


def as_rows(value: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return value.reshape(-1, value.shape[-1])


def largest_of(value: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return the largest size of a number in a value, as one row; what is masked does not count."""
    sizes = np.abs(value).reshape(-1)
    return np.array([[sizes[~(sizes >= MASKED)].max(initial=0.0)]], dtype=np.float32)


def stream_written(
    model: "ir.Model",
    graph: str,
    names: Sequence[str],
    given: "OnnxModel",
    texts: "Sequence[Encoding]",
    work: Path,
    progress: "Progress",
    keep: "Callable[[NDArray[np.float32]], NDArray[np.float32]]" = as_rows,
) -> "Generator[dict[str, NDArray[np.float32]], None, None]":
    """Yield, for each text, the values of `model` (one of `given`'s graphs) called `names` as `[tokens, width]`.

    `keep` makes rows of a value, of which there is one a call of the graph.
    """
    from converter.onnx.runner import open_lean_session

    path = work / "observed.onnx"
    write_observed(model, names, path)
    opened = {graph: open_lean_session(path)}
    source, others = given.source, _lean_run(given, without=graph)
    takes, gives = ([t.name for t in ends()] for ends in (opened[graph].get_inputs, opened[graph].get_outputs))

    def watch(text: "Encoding") -> "dict[str, NDArray[np.float32]]":
        seen: dict[str, list[NDArray[np.float32]]] = {}

        def run(asked: str, feed: "Mapping[str, NDArray[Any]]") -> "Mapping[str, NDArray[Any]]":
            if asked != graph:
                return others(asked, feed)
            made = dict(zip(gives, opened[graph].run(gives, {name: feed[name] for name in takes}), strict=True))
            for name in names:
                seen.setdefault(name, []).append(keep(made[name]))
            return made

        source.task.answer(source.specs, run, source.task.feed(source.specs, [text]))
        return {name: np.concatenate(rows) for name, rows in seen.items()}

    try:
        with progress.task("Watching activations", total=len(texts)) as ticker:
            for values in made_in_threads(watch, texts):
                yield values
                ticker.advance()
    finally:
        # Also when the reader has seen enough and leaves; an interrupted one may be closed after the folder is removed.
        opened.clear()
        remove_onnx(path)
        release_memory()


def _lean_run(given: "OnnxModel", without: str | None = None) -> "Run":
    from converter.onnx.runner import OnnxRunner, open_lean_session

    files = {name: path for name, path in given.files.items() if name != without}
    sessions = {name: open_lean_session(path) for name, path in files.items()}
    return OnnxRunner(files, sessions=sessions).run if files else _no_graph


def _no_graph(graph: str, _feed: "Mapping[str, NDArray[Any]]") -> "Mapping[str, NDArray[Any]]":
    raise KeyError(graph)
