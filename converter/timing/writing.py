"""Models that write text timed beside each other: what a prompt costs, and what each token after it."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import UsageError
from converter.generate.graphs import DECODER, PAST_PREFIX, decoder_of
from converter.generate.timed import TimedText
from converter.graphs import GraphSpec
from converter.timing.comparison import compare_times

if TYPE_CHECKING:
    from converter.timing.comparison import Entry

TOKENS = 32
"""Tokens that are written after each prompt."""
LEAST_ROUNDS = 3


def writes(specs: Mapping[str, GraphSpec]) -> bool:
    """Tell whether these graphs have a cache."""
    return any(name.startswith(PAST_PREFIX) for name in decoder_of(specs).input_names)


def time_writing(
    entries: "Sequence[Entry]", batch: int, length: int, seconds: float, tokens: int = TOKENS
) -> list[dict[str, Any]]:
    """Return, for each, what a prompt of `length` tokens and the `tokens` after it take; all take turns.

    `first_token_ms` is until the first token of an answer, `prefill_ms` that by token of the prompt, `milliseconds`
    one further token at the median of the rounds, `cache_mb` the cache behind the last one.

    Raises:
        UsageError: prompt and answer are longer than the model's positions.

    """
    for entry in entries:
        asked = length + tokens if DECODER not in entry.specs else max(length, tokens + 1)
        if entry.positions and asked > entry.positions:
            raise UsageError(
                f"{entry.name} has {entry.positions} positions; {length} tokens and {tokens} after them are too many",
                where="--lengths",
                hint="ask for shorter prompts, or fewer --tokens",
            )
    found: list[list[tuple[float, float]]] = [[] for _ in entries]
    cache = [0] * len(entries)
    for i, entry in enumerate(entries):  # a first one, to warm up
        cache[i], *_ = _round(entry, batch, length, tokens)
    end = time.perf_counter() + seconds * len(entries)
    while len(found[0]) < LEAST_ROUNDS or time.perf_counter() < end:
        for taken, entry in zip(found, entries, strict=True):
            _, first, rest = _round(entry, batch, length, tokens)
            taken.append((first, rest / tokens))
    rows = [_row(e, t, c, batch, length) for e, t, c in zip(entries, found, cache, strict=True)]
    compare_times(rows, entries, "token")
    return rows


def _round(entry: "Entry", batch: int, length: int, tokens: int) -> tuple[int, float, float]:
    """Return the bytes of the cache at the end, and the seconds of the first token and of those after it."""
    TimedText(entry.run, entry.specs, batch, length)  # untimed: behind another's call weights would have to be read
    began = time.perf_counter()
    text = TimedText(entry.run, entry.specs, batch, length)
    first = time.perf_counter()
    for _ in range(tokens):
        text.step()
    return text.cache_bytes, first - began, time.perf_counter() - first


def _row(entry: "Entry", times: list[tuple[float, float]], cache: int, batch: int, length: int) -> dict[str, Any]:
    firsts, each = (1000 * np.array(column) for column in zip(*times, strict=True))
    low, middle, high = (float(x) for x in np.percentile(each, (10, 50, 90)))
    first = float(np.median(firsts))
    return {
        "package": entry.name,
        "milliseconds": round(middle, 3),
        "p10": round(low, 3),
        "p90": round(high, 3),
        "runs": len(times),
        "tokens_per_second": round(1000 * batch / middle, 1),
        "first_token_ms": round(first, 3),
        "prefill_ms": round(first / length, 4),
        "cache_mb": round(cache / 1e6, 3),
    }
