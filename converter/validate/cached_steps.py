"""A text fed token by token, the cache between, must be read as it is when it is fed at once, without any cache."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.forcing import forced_logits
from converter.graphs import runs_side_by_side
from converter.resources import made_in_threads
from converter.scoring.continuation import next_token_agreement
from converter.scoring.relative_error import relative_error
from converter.validate.answers import RunFailed, shorten
from converter.validate.checks import Check, Status, within
from converter.validate.stability import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.graphs import Run
    from converter.precision import Limits
    from converter.reference import Reference
    from converter.task import Judged

TEXTS = 4
"""Texts that are fed both ways, short to long."""
ONE_BY_ONE = 48
"""Tokens at the end of a text that are fed singly; those before them are fed at once."""


def check_cache(
    source: "TorchModel", reference: "Reference", run: "Run", limits: "Limits", vacuous: str | None = None
) -> Check:
    """Compare the two ways of feeding the shipped files: the next token at every position, and the logits.

    Raises:
        RunFailed: the runtime refused a text.

    """
    if vacuous or not reference.judged:
        return Check("cache", Status.NOT_RUN, detail=vacuous or "there are no texts to compare")
    chosen = _short_to_long(reference.judged)
    both = made_in_threads(
        lambda one: _compare_both(source, reference, run, one), chosen, alone=not runs_side_by_side(run)
    )
    agreed, errors = zip(*both, strict=True)
    same, error = float(np.mean(agreed)), max(errors)
    detail = (
        f"fed token by token, {len(chosen)} texts have the same next token as without a cache at {same:.4f} of their "
        f"positions; logits differ by at most {error:.3g} of their range"
    )
    if limits.stability is None:
        return Check("cache", Status.NOT_RUN, same, None, f"{detail}; no limit is set")
    detail += f"; at least {limits.stability:g} must stay the same"
    return Check("cache", within(same, limits.stability, at_least=True), same, limits.stability, detail)


def _short_to_long(judged: "Sequence[Judged]") -> "list[Judged]":
    by_length = sorted(judged, key=lambda j: j.encoding.length)
    return [*spread(by_length[:-1], TEXTS - 1), by_length[-1]]


def _compare_both(source: "TorchModel", reference: "Reference", run: "Run", one: "Judged") -> tuple[float, float]:
    """Return agreement and error of one text; the logits of several would fill the memory."""
    whole, stepwise = _both(source, run, one)
    return next_token_agreement(whole, stepwise), relative_error(stepwise, whole, reference.output_range["logits"])


def _both(source: "TorchModel", run: "Run", one: "Judged") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Return the logits `[length, vocabulary]` of a text that is fed at once, and of the same fed in steps."""
    specs = source.specs
    feed = source.task.feed(specs, [one.encoding])
    answer = feed.get("decoder_input_ids")
    length = (feed["input_ids"] if answer is None else answer).shape[1]
    singly = min(ONE_BY_ONE, length - 1)
    try:
        whole = forced_logits(run, specs, feed, answer)[0]
        stepwise = forced_logits(run, specs, feed, answer, (length - singly, *[1] * singly))[0]
    except Exception as error:  # the runtime's classes of error are its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailed(f"it does not run on {shorten(one.example.text)!r} fed token by token: {reason}") from error
    return whole, stepwise
