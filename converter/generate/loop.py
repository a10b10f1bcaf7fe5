"""The one loop: greedy, beams or sampling over named graphs, whatever runs them. numpy alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import UsageError
from converter.generate.beams import search_beams
from converter.generate.graphs import DECODER
from converter.generate.rules import Rule, sampling_rules, scoring_rules, softmax
from converter.generate.settings import GenerationSettings
from converter.generate.steps import Steps
from converter.graphs import GraphSpec, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

OnTokens = Callable[["NDArray[np.int64]"], None]
"""Called with the tokens of one step `[batch]`, padding for texts that have ended."""


@dataclass(frozen=True)
class Generated:
    """What a model wrote: int64 `sequences` `[batch, length]`, of which the first `prompt` tokens were given to it."""

    sequences: "NDArray[np.int64]"
    prompt: int

    def texts(self, settings: GenerationSettings) -> list[list[int]]:
        """Return each row's new tokens, up to and with the one that ended it."""
        made = []
        for row in self.sequences[:, self.prompt :].tolist():
            end = next((i for i, token in enumerate(row) if token in settings.eos_ids), len(row) - 1)
            made.append(row[: end + 1])
        return made


def generate(
    run: Run,
    specs: Mapping[str, GraphSpec],
    encoding: "Mapping[str, NDArray[np.int64]]",
    settings: GenerationSettings,
    on_tokens: OnTokens | None = None,
) -> Generated:
    """Return what the model writes after (causal) or about (encoder-decoder) the texts in `encoding`.

    `encoding` is int64 `[batch, length]`: `input_ids` and `attention_mask`, padded on the left for a causal model.
    With beams `on_tokens` is called when they are done, since until then any token may be replaced.

    Raises:
        UsageError: a text is empty or leaves no room for an answer, or the model has no start token.
        ValueError: a causal model's texts are padded on the right.

    """
    mask = np.asarray(encoding["attention_mask"], dtype=np.int64)
    _check_batch(mask, causal=DECODER not in specs)
    longest = int(mask.sum(axis=1).max())
    if DECODER in specs:
        prompt, real, padding = _start(settings, len(mask), longest), 1, np.zeros(len(mask), dtype=np.int64)
        prompt_mask = None
    else:
        prompt, real, padding = np.asarray(encoding["input_ids"], dtype=np.int64), longest, mask.argmax(axis=1)
        prompt_mask = mask
    total = settings.total(prompt.shape[1], real)
    steps = Steps(run, specs, encoding, settings.rope_switches_at)
    logits = steps.step(prompt, prompt_mask, keep=1)[:, -1]
    rules = scoring_rules(settings, prompt.shape[1], total, padding)
    if settings.beams > 1:
        made = search_beams(steps, logits, prompt, total, settings, rules)
        for tokens in made[:, prompt.shape[1] :].T if on_tokens is not None else ():
            on_tokens(tokens)  # type: ignore[misc]  # not None, or there are no tokens
    else:
        made = _one_by_one(steps, logits, prompt, total, settings, rules, on_tokens)
    return Generated(made, prompt.shape[1])


def _check_batch(mask: "NDArray[np.int64]", *, causal: bool) -> None:
    if not mask.size or not mask.any(axis=1).all():
        raise UsageError("a text without a token cannot be continued", hint="give it at least one word")
    if causal and not mask[:, -1].all():
        raise ValueError("texts of a causal model are padded on the left: the next token follows the last one")


def _start(settings: GenerationSettings, rows: int, longest: int) -> "NDArray[np.int64]":
    if settings.start_id is None:
        raise UsageError(
            "the model does not say which token its answers start with",
            hint="its generation_config.json needs decoder_start_token_id",
        )
    if settings.context is not None and longest > settings.context:
        raise UsageError(f"the text has {longest} tokens; the model takes {settings.context}", hint="shorten the text")
    return np.full((rows, 1), settings.start_id, dtype=np.int64)


def _one_by_one(
    steps: Steps,
    logits: "NDArray[np.float32]",
    prompt: "NDArray[np.int64]",
    total: int,
    settings: GenerationSettings,
    rules: list[Rule],
    on_tokens: OnTokens | None,
) -> "NDArray[np.int64]":
    rows, length = prompt.shape
    sequences = np.full((rows, total), settings.fill_id, dtype=np.int64)
    sequences[:, :length] = prompt
    choose = _sampler(settings, rows) if settings.sample else _best
    unfinished = np.ones(rows, dtype=bool)
    if settings.sample:
        rules = [*rules, *sampling_rules(settings)]
    while True:
        scores = logits if not rules else np.array(logits, dtype=np.float32)
        for rule in rules:
            scores = rule(sequences[:, :length], scores)
        tokens = np.where(unfinished, choose(scores), settings.fill_id)
        sequences[:, length] = tokens
        length += 1
        if on_tokens is not None:
            on_tokens(tokens)
        unfinished &= ~np.isin(tokens, settings.eos_ids)
        if length == total or not unfinished.any():
            return sequences[:, :length]
        logits = steps.step(tokens[:, None])[:, -1]


def _best(scores: "NDArray[np.float32]") -> "NDArray[np.int64]":
    return scores.argmax(axis=1)


def _sampler(settings: GenerationSettings, rows: int) -> "Callable[[NDArray[np.float32]], NDArray[np.int64]]":
    """Draw with one stream of random numbers a row: a text's answer does not depend on what is beside it below it."""
    streams = [np.random.default_rng((settings.seed, row)) for row in range(rows)]

    def draw(scores: "NDArray[np.float32]") -> "NDArray[np.int64]":
        mass = np.cumsum(softmax(scores.astype(np.float64)), axis=1)
        # Rounding may leave the last sum below 1, and a number below it past every token that can be chosen.
        marks = np.array([stream.random() for stream in streams]) * mass[:, -1]
        return np.array([np.searchsorted(m, mark, side="right") for m, mark in zip(mass, marks, strict=True)])

    return draw
