"""More text from the same text: parts of it, two halves spliced, words masked or left out. The teacher labels it.

Unlabelled text near the user's own is what a small student lacks most (TinyBERT, arXiv 1909.10351, replaces words by a
language model's; Tang et al., 1903.12136, mask and splice, which needs no other model). Whether a variant reads well
does not matter: the teacher answers to it, and the student learns to answer alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from converter.examples import Example

Words = tuple[str, ...]

SHORTEST_SHARE = 0.3
"""Of its words, that a part of a text keeps."""
SPARED = 0.85
"""Of the words, that stay where words are masked or left out."""
FEW_WORDS = 4
"""A text of fewer words is taken letter by letter: not every script has spaces."""
TRIES = 8
"""To find a variant that is not the text itself."""


def variants_of(examples: Sequence[Example], n_each: int, seed: int, mask: str | None) -> list[Example]:
    """Return `n_each` variants of every example, without labels and groups, drawn from `seed` alone.

    A pair stays a pair, words stay words. `mask` is the tokenizer's mask token, None where it has none. Texts of one
    letter have no variant.
    """
    made = []
    for number in range(n_each):
        for index, example in enumerate(examples):
            rng = np.random.default_rng([seed, number, index])
            other = examples[int(rng.integers(len(examples)))]
            variant = _variant(example, other, rng, mask)
            if variant is not None:
                made.append(variant)
    return made


def _variant(example: Example, other: Example, rng: np.random.Generator, mask: str | None) -> Example | None:
    for _ in range(TRIES):
        change = _changes(mask)[int(rng.integers(len(_changes(mask))))]
        bare = replace(example, label=None, group="")
        if example.words is not None:
            words = change(example.words, other.words or example.words, rng)
            found = replace(bare, words=words, text=" ".join(words))
        elif example.pair is not None and rng.random() < 0.5:
            found = replace(bare, pair=_changed(example.pair, other.pair or other.text, change, rng))
        else:
            found = replace(bare, text=_changed(example.text, other.text, change, rng))
        if (found.text, found.pair, found.words) != (example.text, example.pair, example.words):
            return found
    return None


Change = Callable[[Words, Words, np.random.Generator], Words]


def _changed(text: str, other: str, change: Change, rng: np.random.Generator) -> str:
    words, others = tuple(text.split()), tuple(other.split())
    if len(words) >= FEW_WORDS:
        return " ".join(change(words, others or words, rng))
    return "".join(change(tuple(text), tuple(other) or tuple(text), rng))


def _changes(mask: str | None) -> tuple[Change, ...]:
    def masked(words: Words, _: Words, rng: np.random.Generator) -> Words:
        return tuple(word if keep else str(mask) for word, keep in zip(words, _spared(words, rng), strict=True))

    return (_part, _spliced, _thinned) if mask is None else (_part, _spliced, _thinned, masked)


def _part(words: Words, _: Words, rng: np.random.Generator) -> Words:
    """Return some words in a row."""
    n = int(rng.integers(max(1, round(len(words) * SHORTEST_SHARE)), len(words) + 1))
    start = int(rng.integers(len(words) - n + 1))
    return words[start : start + n]


def _spliced(words: Words, others: Words, rng: np.random.Generator) -> Words:
    """Return the beginning of one text and the end of another."""
    first, second = (float(share) for share in rng.uniform(SHORTEST_SHARE, 1 - SHORTEST_SHARE, 2))
    return words[: max(1, round(len(words) * first))] + others[round(len(others) * second) :]


def _thinned(words: Words, _: Words, rng: np.random.Generator) -> Words:
    """Return the text without some of its words."""
    return tuple(word for word, keep in zip(words, _spared(words, rng), strict=True) if keep) or words


def _spared(words: Words, rng: np.random.Generator) -> list[bool]:
    return [bool(keep) for keep in rng.random(len(words)) < SPARED]
