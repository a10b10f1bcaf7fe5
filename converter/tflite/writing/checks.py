"""What only a TFLite file that writes text is tested for: its fixed cache to the last position, and every length."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.generate.forcing import forced_logits
from converter.reference import torch_run
from converter.scoring.relative_error import RANGE_FLOOR
from converter.tflite.writing.litertlm import LITERTLM_FILE, holds_model
from converter.tflite.writing.stored_once import check_stored_once
from converter.validate.answers import RunFailed
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import Bundle, TorchModel
    from converter.reference import Reference
    from converter.target import Runner
    from converter.tflite.writing.layout import Layout
    from converter.tflite.writing.runner import WriterRunner

CACHE, LENGTHS = "fixed cache", "full lengths"
LAST = 8
"""Tokens at the end of a text whose logits are compared."""
SINGLY = 32
"""Tokens of a text that are fed one by one where it is compared with itself."""
CACHE_LIMIT = 0.01
"""Mean error over the range of the logits: kernels that take one row and those that take many round differently, and in
int8 a rounded activation may become the next number. A position off by one is ten times as much."""
LENGTH_LIMIT = 0.05
"""The same against the source, whose weights are more exact."""

Feeding = tuple[int, ...]
"""The sizes of the pieces in which a text is fed."""


def writer_checks(
    bundle: "Bundle", source: "TorchModel", reference: "Reference", runner: "Runner"
) -> "tuple[list[Check], dict[str, Any]]":
    """Return the check of the cache or of the lengths, and that no weight is in the file twice."""
    opened: Any = runner
    layout: Layout = opened.layout
    own = check_fixed_cache if layout.causal else check_encode_lengths
    model = bundle.folder / next(iter(bundle.files.values()))
    checks = [own(source, reference, opened), check_stored_once(model), *_bundled(bundle.folder / LITERTLM_FILE, model)]
    return checks, {"cache": layout.cache, "signatures": list(layout.signatures)}


def _bundled(path: Path, model: Path) -> list[Check]:
    """Hold the bundle for LiteRT-LM, where there is one, to the file that is judged."""
    if not path.is_file():
        return []
    same = holds_model(path, model)
    detail = f"{path.name} {'has' if same else 'has another model than'} {model.name} in it, byte by byte"
    return [Check("litert-lm", Status.PASS if same else Status.FAIL, detail=detail)]


def check_fixed_cache(source: "TorchModel", reference: "Reference", runner: "WriterRunner") -> Check:
    """Feed a causal model the same text in two ways: by signatures that take several tokens, and one by one.

    A short text is fed one by one from its first token, another fills the cache to its last position.

    Raises:
        RunFailed: the runtime refused a text.

    """
    tokens = _tokens(reference)
    if not len(tokens):
        return Check(CACHE, Status.NOT_RUN, detail="there are no texts to compare")
    cache, worst, at = runner.layout.cache, 0.0, 0
    short = min(SINGLY, cache)
    for length, pieces in ((short, ()), (cache, (max(0, cache - SINGLY),))):
        ids = np.resize(tokens, length)[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        last = min(LAST, length - 1) or 1
        ways = [(max(0, length - last),), (*pieces, *[1] * (length - sum(pieces)))]
        at_once, singly = (_logits(source, runner, feed, None, steps, last) for steps in ways)
        error = _mean_error(at_once, singly, reference)
        if not error <= worst:
            worst, at = error, length
    detail = (
        f"texts of {short} and {cache} tokens, which is all of the cache, are read alike several tokens at a time and "
        f"one by one: logits differ by {worst:.2g} of their range on average"
        + (f", at {at} tokens" if at else "")
        + f"; at most {CACHE_LIMIT:g} wanted"
    )
    return Check(CACHE, Status.PASS if worst <= CACHE_LIMIT else Status.FAIL, worst, CACHE_LIMIT, detail)


def check_encode_lengths(source: "TorchModel", reference: "Reference", runner: "WriterRunner") -> Check:
    """Compare texts that fill each length of an encoder with the source.

    Raises:
        RunFailed: the runtime refused a text.

    """
    judged = [j for j in reference.judged if j.encoding.answer is not None]
    if not judged:
        return Check(LENGTHS, Status.NOT_RUN, detail="there are no texts to compare")
    tokens, run = _tokens(reference), torch_run(source)
    one = max(judged, key=lambda j: len(j.encoding.answer))  # type: ignore[arg-type]  # they have one
    answer = source.task.feed(source.specs, [one.encoding])["decoder_input_ids"]
    lengths = [n for n in runner.layout.lengths if n <= source.max_length]
    worst, at = 0.0, 0
    for length in lengths:
        ids = np.resize(tokens, length)[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found = _logits(source, runner, feed, answer, (), None)
        error = _mean_error(found, forced_logits(run, source.specs, feed, answer), reference)
        if not error <= worst:
            worst, at = error, length
    detail = (
        f"texts that fill each of the lengths {', '.join(map(str, lengths))} are off by {worst:.2g} of the range of "
        f"the logits on average, at {at} tokens; at most {LENGTH_LIMIT:g} wanted"
    )
    return Check(LENGTHS, Status.PASS if worst <= LENGTH_LIMIT else Status.FAIL, worst, LENGTH_LIMIT, detail)


def _tokens(reference: "Reference") -> "NDArray[np.int64]":
    """Return the tokens of all texts, one after the other."""
    rows = [j.encoding.inputs["input_ids"] for j in reference.judged]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)


def _logits(
    source: "TorchModel",
    runner: "WriterRunner",
    feed: "dict[str, NDArray[np.int64]]",
    answer: "NDArray[np.int64] | None",
    steps: Sequence[int],
    last: int | None,
) -> "NDArray[np.float32]":
    try:
        return forced_logits(runner.run, source.specs, feed, answer, steps, last)
    except Exception as error:  # LiteRT's classes of error are its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not run on {feed['input_ids'].shape[1]} tokens: {reason}") from error


def _mean_error(found: "NDArray[np.float32]", wanted: "NDArray[np.float32]", reference: "Reference") -> float:
    error = float(np.abs(found - wanted).mean()) / max(reference.output_range["logits"], RANGE_FLOOR)
    return error if np.isfinite(error) else float("inf")
