"""The scores of tokens that are given, not chosen: what a model says at every step of a text that is fixed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.graphs import DECODER
from converter.generate.steps import Steps
from converter.graphs import GraphSpec, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray


def forced_logits(
    run: Run,
    specs: Mapping[str, GraphSpec],
    encoding: "Mapping[str, NDArray[np.int64]]",
    answer: "NDArray[np.int64] | None" = None,
    steps: Sequence[int] = (),
    last: int | None = None,
) -> "NDArray[np.float32]":
    """Return logits `[batch, length, vocabulary]` at each token of a text that is fed as it is, or at the `last` ones.

    The text is `encoding` itself for a causal model, and `answer` `[batch, length]`, start token first, for an
    encoder-decoder. `steps` are the sizes of the pieces it is fed in, the cache between them; the rest, by default
    all, is the last piece.
    """
    made = [logits for _, logits in forced_pieces(run, specs, encoding, answer, steps, last)]
    return np.concatenate(made, axis=1) if len(made) > 1 else made[0]


def forced_pieces(
    run: Run,
    specs: Mapping[str, GraphSpec],
    encoding: "Mapping[str, NDArray[np.int64]]",
    answer: "NDArray[np.int64] | None" = None,
    steps: Sequence[int] = (),
    last: int | None = None,
) -> "Iterator[tuple[slice, NDArray[np.float32]]]":
    """Yield what `forced_logits` returns piece by piece, each with the place of the tokens that it belongs to.

    All logits of a long text and a large vocabulary are hundreds of megabytes.
    """
    ids, mask = (encoding["input_ids"], encoding["attention_mask"]) if DECODER not in specs else (answer, None)
    if ids is None:
        raise ValueError("an encoder-decoder is asked about an answer")
    ends = np.cumsum([n for n in steps if n])
    cuts = [0, *(int(e) for e in ends if e < ids.shape[1]), ids.shape[1]]
    asked = Steps(run, specs, encoding)
    first = 0 if last is None else max(0, ids.shape[1] - last)
    for a, b in pairwise(cuts):
        keep = None if a >= first else max(0, b - first)
        logits = asked.step(ids[:, a:b], None if mask is None else mask[:, a:b], keep)
        if keep != 0:
            # Whoever gives others than were asked for gives those of all tokens, or is found out by their number.
            yield slice(b - keep if keep is not None and logits.shape[1] == keep else a, int(b)), logits
        del logits  # before the next piece is made
