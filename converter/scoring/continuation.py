"""How well a model continues text: the next token and its probability at every step, and where two texts part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 64
"""Steps whose probabilities are worked out at a time: in float64 a long text's would fill the memory."""


def next_token_agreement(wanted: "NDArray[np.floating]", found: "NDArray[np.floating]") -> float:
    """Return the share (0..1) of steps at which two models would write the same token.

    Both are logits `[steps, vocabulary]` for the same text.

    Raises:
        ValueError: there is no step.

    """
    if not len(wanted):
        raise ValueError("agreement of nothing: there are no steps")
    return float((wanted.argmax(axis=-1) == found.argmax(axis=-1)).mean())


def surprise(logits: "NDArray[np.floating]", ids: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Return minus the log probability of each token `[steps]` of a text, which logits `[steps, vocabulary]` give.

    `logits[i]` are those at the token before `ids[i]`.
    """
    made = np.zeros(len(logits))
    for i in range(0, len(logits), ROWS):
        exact = logits[i : i + ROWS].astype(np.float64)
        exact -= exact.max(axis=-1, keepdims=True)
        own = np.take_along_axis(exact, ids[i : i + ROWS, None], axis=-1)[:, 0]
        made[i : i + ROWS] = np.log(np.exp(exact, out=exact).sum(axis=-1)) - own
    return made


def perplexity(surprises: Sequence["NDArray[np.floating]"]) -> float:
    """Return the perplexity of texts, every token of them counted alike.

    Raises:
        ValueError: there is no token.

    """
    every = np.concatenate([np.zeros(0), *surprises])
    if not len(every):
        raise ValueError("perplexity of nothing: there are no tokens")
    return float(np.exp(every.mean()))


@dataclass(frozen=True)
class Parting:
    """Where one text first differs from another."""

    place: int
    """How many tokens are equal before it."""
    wanted: int | None
    """The token there; None where the text has ended."""
    found: int | None
    tie: bool = False
    """The source's scores of the two are equal within what arithmetic rounds."""


def first_parting(
    wanted: Sequence[int],
    found: Sequence[int],
    logits: "NDArray[np.floating] | None" = None,
    tolerance: float = 1e-4,
) -> Parting | None:
    """Return where `found` first differs from the source's text; None where they are equal.

    `logits` `[steps, vocabulary]` are the source's at each of its steps: tokens whose scores are at most `tolerance` of
    their range apart are a tie. A text that goes on where the other has ended differs there, and is no tie.
    """
    place = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), None)
    if place is None:
        if len(wanted) == len(found):
            return None
        place = min(len(wanted), len(found))
    one, other = (text[place] if place < len(text) else None for text in (wanted, found))
    tie = False
    if logits is not None and one is not None and other is not None:
        scores = logits[place]
        tie = abs(float(scores[one] - scores[other])) <= tolerance * float(scores.max() - scores.min())
    return Parting(place, one, other, tie)
