"""Beginnings of texts: what a model that continues text is asked of those that are whole."""

import re
from collections.abc import Sequence
from dataclasses import replace

from converter.examples import Example, Label, References

WHOLE = 4
"""Of the user's texts that stand alone, one in so many is not cut: what a model makes of an end is looked at, too."""


def beginnings(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return texts that stand alone in a file with their first half; prompts, and texts with an answer, as they are.

    Of every `WHOLE`th text all is left.
    """
    alone = [i for i, e in enumerate(examples) if _is_whole(e.label)]
    cut = {i for n, i in enumerate(alone, 1) if n % WHOLE}
    return tuple(replace(e, text=_cut(e.text)) if i in cut else e for i, e in enumerate(examples))


def first_half(text: str) -> str:
    """Return the first half of the words of a text, a space between them.

    >>> first_half("The old king buys a hat.")
    'The old king'
    """
    words = text.split()
    return " ".join(words[: max(1, len(words) // 2)]) if words else text


def _is_whole(label: Label) -> bool:
    return isinstance(label, References) and not label.texts and not label.prompt


def _cut(text: str) -> str:
    """Return the first half of the words as they stand there; of a text without spaces, of its characters."""
    words = list(re.finditer(r"\S+", text))
    if len(words) < 2:
        return text[: max(1, len(text) // 2)]
    return text[: words[len(words) // 2 - 1].end()]
