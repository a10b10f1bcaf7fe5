"""Answers written for several texts at once, and what tells that a model would write the same for one text alone.

A step of one text reads all weights; a step of eight reads them once too. What was written in a batch is a draft until
the model, asked about the text alone, chooses each of its tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.graphs import DECODER
from converter.generate.loop import generate
from converter.generate.rules import scoring_rules
from converter.generate.settings import GenerationSettings
from converter.graphs import GraphSpec, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 8
MOST_LOGITS = 1 << 24
"""Of one call, 64 MB: a causal model gives logits for every token of a batch."""


def alike(lengths: Sequence[int], vocabulary: int = 1) -> Iterator[list[int]]:
    """Yield the places of texts that are run together: of like length, and no more than memory allows."""
    waiting = sorted(range(len(lengths)), key=lambda i: lengths[i])
    while waiting:
        size = 1
        while size < min(ROWS, len(waiting)) and (size + 1) * lengths[waiting[size]] * vocabulary <= MOST_LOGITS:
            size += 1
        yield waiting[:size]
        waiting = waiting[size:]


def draft(
    run: Run, specs: Mapping[str, GraphSpec], texts: "Sequence[NDArray[np.int64]]", settings: GenerationSettings
) -> list[list[int]]:
    """Return what is written after (causal) or about each text (int64 ids `[length]`), several at a time."""
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    vocabulary = 1 if DECODER in specs else ids.draw[1] + 1
    made: dict[int, list[int]] = {}
    for rows in alike([len(t) for t in texts], vocabulary):
        longest = max(len(texts[i]) for i in rows)
        batch = np.full((2, len(rows), longest), ids.fill, dtype=np.int64)
        batch[1] = 0
        for row, i in enumerate(rows):
            own = slice(longest - len(texts[i]), None) if ids.side == "left" else slice(0, len(texts[i]))
            batch[0, row, own], batch[1, row, own] = texts[i], 1
        feed = {"input_ids": batch[0], "attention_mask": batch[1]}
        made |= dict(zip(rows, generate(run, specs, feed, settings).texts(settings), strict=True))
    return [made[i] for i in range(len(texts))]


def stands(
    text: "NDArray[np.int64] | None",
    longest: int,
    answer: "NDArray[np.int64]",
    logits: "NDArray[np.float32]",
    settings: GenerationSettings,
) -> bool:
    """Tell whether a model with these `logits` `[steps, vocabulary]`, asked alone, would write `answer` `[steps]`.

    `text` is what the answer goes on from, None for an encoder-decoder, whose text has `longest` tokens.
    """
    prompt = np.array([settings.start_id]) if text is None else text
    total = settings.total(len(prompt), 1 if text is None else longest)
    if len(answer) != total - len(prompt) and answer[-1] not in settings.eos_ids:
        return False
    if np.isin(answer[:-1], settings.eos_ids).any():  # it would have ended there
        return False
    rules = scoring_rules(settings, len(prompt), total, np.zeros(1, dtype=np.int64))
    whole = np.concatenate([prompt, answer])[None]
    for step, token in enumerate(answer):
        scores = logits[step : step + 1].copy() if rules else logits[step : step + 1]
        for rule in rules:
            scores = rule(whole[:, : len(prompt) + step], scores)
        if scores[0].argmax() != token:
            return False
    return True
