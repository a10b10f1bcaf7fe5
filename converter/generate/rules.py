"""What is done to the next token's scores before one is chosen: transformers' logits processors, in their order."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.settings import GenerationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rule = Callable[["NDArray[np.int64]", "NDArray[np.float32]"], "NDArray[np.float32]"]
"""Sequences so far `[rows, length]` and scores `[rows, vocabulary]` to scores, which it may change in place."""

PYTHON_RULES = Path(__file__).parent / "templates"
"""The folder of `rules.py.j2`: these rules as source code for samples."""
_NEVER = np.float32(-np.inf)


def scoring_rules(settings: GenerationSettings, prompt: int, total: int, padding: "NDArray[np.int64]") -> list[Rule]:
    """Return the rules in force, none where scores are taken as they are.

    `prompt` tokens are given, sequences end at `total`, and the first `padding[row]` tokens of a row are padding.
    """
    rules: list[Rule] = []
    if settings.repetition_penalty != 1:
        rules.append(_penalize_repetition(settings.repetition_penalty, padding))
    if settings.no_repeat_ngram:
        rules.append(_forbid_ngrams(settings.no_repeat_ngram))
    if words := forbidden_words(settings):
        rules.append(_forbid_words(words))
    shortest = max(settings.min_length, prompt + settings.min_new_tokens if settings.min_new_tokens else 0)
    if settings.eos_ids and shortest > prompt:
        rules.append(_forbid(settings.eos_ids, lambda length: length < shortest))
    if settings.forced_bos_id is not None:
        rules.append(_force((settings.forced_bos_id,), 1))
    if settings.forced_eos_ids:
        rules.append(_force(settings.forced_eos_ids, total - 1))
    if settings.suppressed:
        rules.append(_forbid(settings.suppressed, lambda _: True))
    if settings.suppressed_first:
        first = prompt if prompt > 1 or settings.forced_bos_id is None else prompt + 1
        rules.append(_forbid(settings.suppressed_first, lambda length: length == first))
    if settings.renormalize and settings.beams > 1:
        rules.append(lambda _, scores: _renormalized(scores))
    return rules


def forbidden_words(settings: GenerationSettings) -> list[tuple[int, ...]]:
    """Return the sequences of tokens that are never written: a token that ends texts is not forbidden by itself."""
    return [w for w in settings.bad_words if w and not (len(w) == 1 and w[0] in settings.eos_ids)]


def sampling_rules(settings: GenerationSettings) -> list[Rule]:
    """Return what shapes the distribution that tokens are drawn from."""
    rules: list[Rule] = []
    if settings.temperature != 1:
        temperature = np.float32(settings.temperature)
        rules.append(lambda _, scores: scores / temperature)
    if settings.top_k:
        rules.append(lambda _, scores: _keep_best(scores, settings.top_k))
    if settings.top_p < 1:
        rules.append(lambda _, scores: _keep_mass(scores, settings.top_p))
    if settings.min_p > 0:
        rules.append(lambda _, scores: _keep_likely(scores, settings.min_p))
    return rules


def softmax(scores: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """Return probabilities along the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _renormalized(scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
    raised = scores - scores.max(axis=-1, keepdims=True)
    return raised - np.log(np.exp(raised).sum(axis=-1, keepdims=True))


def _penalize_repetition(penalty: float, padding: "NDArray[np.int64]") -> Rule:
    factor = np.float32(penalty)

    def rule(sequences: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
        beams = len(sequences) // len(padding)
        for row, sequence in enumerate(sequences):
            seen = np.unique(sequence[padding[row // beams] :])
            seen = seen[seen < scores.shape[1]]
            old = scores[row, seen]
            scores[row, seen] = np.where(old < 0, old * factor, old / factor)
        return scores

    return rule


def _forbid_ngrams(size: int) -> Rule:
    def rule(sequences: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
        length = sequences.shape[1]
        if length < size:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(sequences, size, axis=1)
        begun = sequences[:, None, length + 1 - size :]
        row, place = np.nonzero((windows[..., :-1] == begun).all(axis=-1))
        last = windows[row, place, -1]
        known = last < scores.shape[1]
        scores[row[known], last[known]] = _NEVER
        return scores

    return rule


def _forbid_words(words: list[tuple[int, ...]]) -> Rule:
    def rule(sequences: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
        for *begin, last in words:
            if len(begin) <= sequences.shape[1]:
                tail = sequences[:, sequences.shape[1] - len(begin) :]
                scores[(tail == begin).all(axis=1), last] = _NEVER
        return scores

    return rule


def _forbid(ids: tuple[int, ...], applies: Callable[[int], bool]) -> Rule:
    places = list(ids)

    def rule(sequences: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
        if applies(sequences.shape[1]):
            scores[:, [i for i in places if i < scores.shape[1]]] = _NEVER
        return scores

    return rule


def _force(ids: tuple[int, ...], length: int) -> Rule:
    places = list(ids)

    def rule(sequences: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> "NDArray[np.float32]":
        if sequences.shape[1] == length:
            scores[:] = _NEVER
            scores[:, places] = 0
        return scores

    return rule


def _keep_best(scores: "NDArray[np.float32]", count: int) -> "NDArray[np.float32]":
    count = min(count, scores.shape[1])
    least = np.partition(scores, -count, axis=1)[:, -count, None]
    return np.where(scores < least, _NEVER, scores)


def _keep_mass(scores: "NDArray[np.float32]", mass: float) -> "NDArray[np.float32]":
    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    dropped = np.cumsum(softmax(ranked), axis=1) <= 1 - mass
    dropped[:, -1] = False
    ranked[dropped] = _NEVER
    kept = np.empty_like(scores)
    np.put_along_axis(kept, order, ranked, axis=1)
    return kept


def _keep_likely(scores: "NDArray[np.float32]", share: float) -> "NDArray[np.float32]":
    likely = softmax(scores)
    return np.where(likely < share * likely.max(axis=1, keepdims=True), _NEVER, scores)
