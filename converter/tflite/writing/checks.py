"""What only a TFLite file that writes text is tested for: its fixed cache to the last position, and every length."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged
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
    from converter.package.shipped import Shipped
    from converter.reference import Reference
    from converter.target import Runner
    from converter.tflite.writing.layout import Layout
    from converter.tflite.writing.runner import WriterRunner

CACHE, LENGTHS, BUNDLE = "fixed cache", "full lengths", "litert-lm"
LAST = 8
"""Tokens at the end of a text whose logits are compared."""
SINGLY = 32
"""Tokens of a text that are fed one by one where it is compared with itself."""
CACHE_LIMIT = 0.01
"""Mean error over the range of the logits: kernels that take one row and those that take many round differently, and in
int8 a rounded activation may become the next number. A position off by one is ten times as much."""
LENGTH_LIMIT = 0.05
"""The same against the model that the file was made of, whose weights are more exact."""

Feeding = tuple[int, ...]
"""The sizes of the pieces in which a text is fed."""


def writer_checks(bundle: "Bundle", reference: "Reference", runner: "Runner") -> "tuple[list[Check], dict[str, Any]]":
    """Return the check of the cache or of the lengths, and that no weight is in the file twice."""
    opened: Any = runner
    layout: Layout = opened.layout
    own, name = (check_fixed_cache, CACHE) if layout.causal else (check_encode_lengths, LENGTHS)
    model = bundle.folder / next(iter(bundle.files.values()))
    try:
        # Beside what the file was made of: a pruned model has another cache than its source, and other answers.
        first = own(bundle.source, reference, opened)
    except RunFailed as error:
        first = Check(name, Status.FAIL, detail=str(error))
    checks = [first, check_stored_once(model), *_bundled(bundle.folder / LITERTLM_FILE, model)]
    return checks, {"cache": layout.cache, "signatures": list(layout.signatures)}


def _bundled(path: Path, model: Path) -> list[Check]:
    """Hold the bundle for LiteRT-LM, where there is one, to the file that is judged."""
    if not path.is_file():
        return []
    same = holds_model(path, model)
    detail = f"{path.name} {'has' if same else 'has another model than'} {model.name} in it, byte by byte"
    return [Check(BUNDLE, Status.PASS if same else Status.FAIL, detail=detail)]


def check_shipped_bundle(shipped: "Shipped", model: Path) -> tuple[str, ...]:
    """Hold the bundle for LiteRT-LM to the file that was replayed; returns its name, nothing where there is none.

    Raises:
        PackageDamaged: it has another model in it, or is gone.

    """
    path = shipped.folder / LITERTLM_FILE
    if not path.is_file():
        if any(check.name == BUNDLE for check in shipped.manifest.gate.checks):
            raise PackageDamaged(f"{LITERTLM_FILE} is missing, which its gate has seen", where=str(shipped.folder))
        return ()
    if not holds_model(path, model):
        raise PackageDamaged(f"it has another model than {model.name} in it", where=str(path))
    return (LITERTLM_FILE,)


def check_fixed_cache(model: "TorchModel", reference: "Reference", runner: "WriterRunner") -> Check:
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
        at_once, singly = (_logits(model, runner, feed, None, steps, last) for steps in ways)
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


def check_encode_lengths(model: "TorchModel", reference: "Reference", runner: "WriterRunner") -> Check:
    """Compare texts that fill each length of an encoder with the model that the file was made of.

    Raises:
        RunFailed: the runtime refused a text.

    """
    judged = [j for j in reference.judged if j.encoding.answer is not None]
    if not judged:
        return Check(LENGTHS, Status.NOT_RUN, detail="there are no texts to compare")
    tokens, run = _tokens(reference), torch_run(model)
    one = max(judged, key=lambda j: len(j.encoding.answer))  # type: ignore[arg-type]  # they have one
    answer = model.task.feed(model.specs, [one.encoding])["decoder_input_ids"]
    lengths = [n for n in runner.layout.lengths if n <= model.max_length]
    if not lengths:
        return Check(LENGTHS, Status.NOT_RUN, detail="the file has no length that the model takes")
    worst, at = 0.0, 0
    for length in lengths:
        ids = np.resize(tokens, length)[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found = _logits(model, runner, feed, answer, (), None)
        error = _mean_error(found, forced_logits(run, model.specs, feed, answer), reference)
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
    model: "TorchModel",
    runner: "WriterRunner",
    feed: "dict[str, NDArray[np.int64]]",
    answer: "NDArray[np.int64] | None",
    steps: Sequence[int],
    last: int | None,
) -> "NDArray[np.float32]":
    try:
        return forced_logits(runner.run, model.specs, feed, answer, steps, last)
    except Exception as error:  # LiteRT's classes of error are its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not run on {feed['input_ids'].shape[1]} tokens: {reason}") from error


def _mean_error(found: "NDArray[np.float32]", wanted: "NDArray[np.float32]", reference: "Reference") -> float:
    error = float(np.abs(found - wanted).mean()) / max(reference.output_range["logits"], RANGE_FLOOR)
    return error if np.isfinite(error) else float("inf")
