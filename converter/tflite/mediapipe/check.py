"""The MediaPipe variant in LiteRT, fed as MediaPipe feeds it, beside the package's own file.

What MediaPipe reads around the graph is looked at as well: it finds inputs by their place, so that a wrong order loads
and answers garbage.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import Bundle
from converter.errors import PackageDamaged
from converter.graphs import MODEL
from converter.model_folder.labels import label_line
from converter.stage import Context
from converter.tflite.file import bytes_of, shared_flat, text
from converter.tflite.lengths.trial import try_lengths
from converter.tflite.mediapipe.metadata import INPUTS, LABELS, NAME, VOCABULARY, text_model
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE, ORDER, scores_of, vocabulary_of
from converter.tflite.model import TfliteModel, mobile_outputs
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.package.shipped import Shipped
    from converter.reference import Reference
    from converter.stage import Progress
    from converter.target import Runner

    Run = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float64]]

CHECK = "mediapipe"
TEXTS = 100
LIMIT = 0.02
"""Largest distance of a text: scores that go to other classes, or what an embedding's cosine lacks to 1. 3e-4 was
measured; a wrong input or order is off by 0.1 and more."""


def try_variant(given: TfliteModel, path: Path, ctx: Context) -> None:
    """Compare the variant with the file that it was made of.

    Raises:
        LengthDependent: see `try_lengths`.

    """
    (output,) = mobile_outputs(given.source)
    kind, run = scores_of(given.source), open_variant(path)
    try_lengths(
        given,
        lambda _, feed: {output: run(feed).astype(np.float32)},
        ctx,
        lambda values: _scores(values.astype(np.float64), kind),
    )


def check_variant(
    bundle: Bundle, source: "TorchModel", reference: "Reference", runner: "Runner", progress: "Progress"
) -> tuple[list[Check], dict[str, Any]]:
    """Compare the variant with the package on texts of all lengths, and what lies around its graph with the model.

    Without a variant, the facts say why.
    """
    from converter.reference import feed_of
    from converter.validate.stability import spread

    path = bundle.folder / MEDIAPIPE_FILE
    if not path.is_file():
        return [], {CHECK: {"left_out": bundle.left_out[MEDIAPIPE_FILE]}}
    scores = scores_of(bundle.source)
    run = open_variant(path)
    probes = spread(reference.probes, TEXTS)
    distances = []
    with progress.task("Comparing the MediaPipe variant", total=len(probes)) as ticker:
        for probe in probes:
            feed = feed_of(source, [probe.encoding])
            wanted = next(iter(runner.run(MODEL, feed).values())).astype(np.float64)
            distances.append(distance(run(feed), _scores(wanted, scores), scores))
            ticker.advance()
    facts: dict[str, Any] = {"file": path.name, "size_bytes": path.stat().st_size}
    wrong = wrong_around(path, bundle.source)
    if wrong:
        return [Check(CHECK, Status.FAIL, None, LIMIT, f"{path.name}: {wrong}")], {CHECK: facts}
    if not distances:
        return [Check(CHECK, Status.NOT_RUN, None, LIMIT, "there are no texts to compare with")], {CHECK: facts}
    # numpy's, which keeps NaN.
    worst, mean = float(np.max(distances)), float(np.mean(distances))
    detail = f"{path.name} matches the package within {worst:.1e} at worst ({mean:.1e} on average)"
    status = Status.PASS if worst <= LIMIT else Status.FAIL
    return [Check(CHECK, status, worst, LIMIT, detail)], {CHECK: facts | {"worst": worst, "texts": len(probes)}}


def distance(found: "NDArray[np.float64]", wanted: "NDArray[np.float64]", kind: str | None) -> float:
    """Return how far two answers are apart, whatever the number of classes, or the length of a vector.

    Scores of one answer: what went to other classes (total variation). Scores of several: the largest difference.
    Embeddings: one less the cosine.
    """
    if kind == "SOFTMAX":
        return float(np.abs(found - wanted).sum() / 2)
    if kind == "LOGISTIC":
        return float(np.abs(found - wanted).max())
    sizes = np.linalg.norm(found) * np.linalg.norm(wanted)
    return float(1 - (found * wanted).sum() / sizes) if sizes > 0 else float(np.abs(found - wanted).max())


@dataclass(frozen=True)
class Around:
    """What MediaPipe reads beside the graph."""

    name: str
    scores: str | None
    tokenizer: Any
    labels: tuple[str, ...]


def wrong_around(path: Path, source: "TorchModel") -> str:
    """Say what MediaPipe would misread in the file; empty where nothing."""
    return wrong_inside(path, Around(source.provenance.id, scores_of(source), source.tokenizer, source.task.labels))


def check_shipped_variant(shipped: "Shipped") -> tuple[str, ...]:
    """Replay the golden texts in the shipped variant; returns its name, nothing where there is none.

    Raises:
        PackageDamaged: it answers otherwise than the package, or it is missing.

    """
    path = shipped.folder / MEDIAPIPE_FILE
    fact = shipped.manifest.gate.facts.get(CHECK)
    if not path.is_file():
        if isinstance(fact, dict) and fact.get("file"):
            raise PackageDamaged(f"{MEDIAPIPE_FILE} is missing, which its gate has seen", where=str(shipped.folder))
        return ()
    embeds = any("sentence_embedding" in spec.output_names for spec in shipped.specs.values())
    scores = None if embeds else shipped.task.mediapipe_scores()
    try:
        run = open_variant(path)
        wrong = wrong_inside(path, Around(shipped.manifest.source.id, scores, shipped.tokenizer, shipped.task.labels))
        worst = max(_golden_distances(shipped, run, scores))
    except Exception as error:  # noqa: BLE001 - the interpreter and flatbuffers raise their own classes
        raise PackageDamaged(f"it cannot be run ({type(error).__name__}: {error})", where=str(path)) from None
    if wrong:
        raise PackageDamaged(wrong, where=str(path))
    if not worst <= LIMIT:
        raise PackageDamaged(
            f"it differs by {worst:.3g} from the package on a golden text; at most {LIMIT:g} wanted", where=str(path)
        )
    return (MEDIAPIPE_FILE,)


def _golden_distances(shipped: "Shipped", run: "Run", scores: str | None) -> "Iterator[float]":
    for encoding in shipped.encodings:
        feed = shipped.task.feed(shipped.specs, [encoding])
        wanted = next(iter(shipped.runner.run(MODEL, feed).values())).astype(np.float64)
        yield distance(run(feed), _scores(wanted, scores), scores)


def wrong_inside(path: Path, around: Around) -> str:
    """Say what MediaPipe would misread in a file of this model; empty where nothing."""
    model = shared_flat(path)
    if len(model.subgraphs) != 1:
        return f"it has {len(model.subgraphs)} graphs, and MediaPipe takes one"
    graph = model.subgraphs[0]
    names = tuple(text(graph.tensors[int(t)].name) for t in graph.inputs)
    if names != INPUTS:
        return f"its inputs are {names}, in this order, wanted {INPUTS}"
    held = [bytes_of(model, m.buffer).tobytes() for m in model.metadata or () if text(m.name) == NAME]
    output = text(graph.tensors[int(graph.outputs[0])].name)
    if held != [text_model(around.name, output, labels=around.scores is not None)]:
        return "its metadata does not match the model"
    files = {VOCABULARY: vocabulary_of(around.tokenizer)}
    if around.scores is not None:
        files[LABELS] = [label_line(name) for name in around.labels]
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            found = {name: archive.read(name).decode().split("\n")[:-1] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return "there is no vocabulary after the model"
    if packed:
        return f"{packed[0]} is compressed, and MediaPipe reads only uncompressed files"
    differing = [name for name, lines in files.items() if found.get(name) != lines]
    return f"{differing[0]} does not match the model" if differing else ""


def open_variant(path: Path) -> "Run":
    """Open the file and return how it answers, fed by place, as MediaPipe does."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    places = [d["index"] for d in sorted(interpreter.get_input_details(), key=lambda d: INPUTS.index(d["name"]))]
    output = interpreter.get_output_details()[0]["index"]

    def run(feed: "Mapping[str, NDArray[np.int64]]") -> "NDArray[np.float64]":
        empty = np.zeros_like(feed["input_ids"])
        for place in places:
            interpreter.resize_tensor_input(place, empty.shape)
        interpreter.allocate_tensors()
        for name, place in zip(ORDER, places, strict=True):
            interpreter.set_tensor(place, feed.get(name, empty).astype(np.int32))
        interpreter.invoke()
        made: NDArray[np.float64] = interpreter.get_tensor(output).astype(np.float64)
        return made

    return run


def _scores(values: "NDArray[np.float64]", kind: str | None) -> "NDArray[np.float64]":
    if kind is None:
        return values
    if kind == "LOGISTIC":
        return 1 / (1 + np.exp(-values))
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
