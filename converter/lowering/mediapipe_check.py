"""The MediaPipe variant in LiteRT, fed as MediaPipe feeds it, beside the package's own file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.lowering.mediapipe import MEDIAPIPE_FILE, ORDER, Inexpressible, scores_of, vocabulary_of
from converter.lowering.mediapipe_metadata import INPUTS
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Context
    from converter.target import Runner
    from converter.validate.reference import Reference

CHECK = "mediapipe"
FACT = "mediapipe"
TEXTS = 100
LIMIT = 0.01
"""Mean distance of scores, or of an embedding's numbers: 1e-7 is measured where kernels compute alike, 1e-3 where a
static file has other ranges at other lengths; a wrong input or order is off by 0.1 and more."""


def check_variant(
    folder: Path, source: "TorchModel", reference: "Reference", runner: "Runner", ctx: "Context"
) -> tuple[list[Check], dict[str, Any]]:
    """Compare the variant with the package on texts of all lengths; without a variant, the facts say why."""
    from converter.validate.reference import feed_of
    from converter.validate.stability import spread

    path = folder / MEDIAPIPE_FILE
    if not path.is_file():
        return [], {FACT: {"left_out": why_left_out(source)}}
    scores = scores_of(source)
    run = _variant(path)
    probes = spread(reference.probes, TEXTS)
    distances = []
    with ctx.progress.task("Comparing the MediaPipe variant", total=len(probes)) as ticker:
        for probe in probes:
            feed = feed_of(source, [probe.encoding], probe.encoding.length)
            wanted = next(iter(runner.run(feed).values())).astype(np.float64)
            distances.append(float(np.abs(run(feed) - _scores(wanted, scores)).mean()))
            ticker.advance()
    facts: dict[str, Any] = {"file": path.name, "size_bytes": path.stat().st_size}
    if not distances:
        return [Check(CHECK, Status.NOT_RUN, None, LIMIT, "there are no texts to compare with")], {FACT: facts}
    worst = max(distances)
    mean = float(np.mean(distances))
    detail = f"{path.name} answers like the package within {mean:.1e} in the mean ({worst:.1e} at worst)"
    # Written so that NaN fails.
    status = Status.PASS if mean <= LIMIT else Status.FAIL
    return [Check(CHECK, status, mean, LIMIT, detail)], {FACT: facts | {"mean_distance": mean, "texts": len(probes)}}


def why_left_out(source: "TorchModel") -> str:
    """Say why a model has no variant."""
    try:
        scores_of(source)
        vocabulary_of(source.tokenizer)
    except Inexpressible as error:
        return str(error)
    return "its graph does not take any length, or it was not asked for"


def _variant(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    signature = interpreter.get_signature_runner("serving")

    def run(feed: "Mapping[str, NDArray[np.int64]]") -> "NDArray[np.float64]":
        empty = np.zeros_like(feed["input_ids"])
        named = {wanted: feed.get(name, empty).astype(np.int32) for name, wanted in zip(ORDER, INPUTS, strict=True)}
        made: NDArray[np.float64] = next(iter(signature(**named).values())).astype(np.float64)
        return made

    return run


def _scores(values: "NDArray[np.float64]", kind: str | None) -> "NDArray[np.float64]":
    if kind is None:
        return values
    if kind == "LOGISTIC":
        return 1 / (1 + np.exp(-values))
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
