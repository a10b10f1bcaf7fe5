"""What flows through a float graph on real text, one text at a time: memory does not grow with the text."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.examples import pad_batch
from converter.graphs import MODEL
from converter.onnx.external import remove_onnx
from converter.onnx.pieces import Pieces
from converter.onnx.write import write_onnx
from converter.resources import release_memory

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.stage import Progress


def stream_activations(
    model: "ir.Model",
    names: Sequence[str],
    source: "TorchModel",
    texts: "Sequence[Example]",
    work: Path,
    progress: "Progress",
) -> "Generator[dict[str, NDArray[np.float32]], None, None]":
    """Yield, for each text alone and without padding, the values called `names` as `[tokens, width]`.

    Where the weights of the source are on disk the graph is run in pieces: the values of the first piece for every
    text, then those of the second one, and so on.
    """
    from converter.onnx.runner import open_lean_session

    path = work / "observed.onnx"
    write_observed(model, names, path)
    if source.offloaded:
        yield from _in_pieces(path, names, source, texts, progress)
        return
    session = open_lean_session(path)
    try:
        with progress.task("Watching activations", total=len(texts)) as ticker:
            for text in texts:
                encoding = source.task.encode(source.tokenizer, text, source.max_length)
                values = session.run(list(names), pad_batch([encoding], source.specs[MODEL]))
                yield {n: v.reshape(-1, v.shape[-1]) for n, v in zip(names, values, strict=True)}
                ticker.advance()
    finally:
        # Also when the reader has seen enough and leaves; an interrupted one may be closed after the folder is removed.
        del session
        remove_onnx(path)
        release_memory()


def _in_pieces(
    path: Path, names: Sequence[str], source: "TorchModel", texts: "Sequence[Example]", progress: "Progress"
) -> "Generator[dict[str, NDArray[np.float32]], None, None]":
    pieces = Pieces(path, names)
    encodings = (source.task.encode(source.tokenizer, text, source.max_length) for text in texts)
    feeds = [pad_batch([encoding], source.specs[MODEL]) for encoding in encodings]
    try:
        with progress.task("Watching activations", total=len(texts) * len(pieces.pieces)) as ticker:
            for values in pieces.passes(feeds):
                yield {n: v.reshape(-1, v.shape[-1]) for n, v in values.items()}
                ticker.advance()
    finally:
        remove_onnx(path)


def write_observed(model: "ir.Model", names: Sequence[str], path: Path) -> None:
    """Write `model` with the values called `names` as outputs too; the model itself stays as it is."""
    import onnx_ir as ir

    by_name = {v.name: v for node in model.graph for v in node.outputs}
    for name in names:
        value = by_name[name]
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    try:
        write_onnx(model, path)
    finally:
        # Popped one by one: a slice would leave the values marked as outputs of the graph.
        for _ in names:
            model.graph.outputs.pop()
    release_memory()
