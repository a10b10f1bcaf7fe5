"""The language that a translator answers in: a first token that is forced, or a mark before the text."""

import re
from dataclasses import dataclass
from typing import Any

from converter.errors import UsageError, nearest

_FORCED = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_[A-Z]{2})|([a-z]{3}_[A-Z][a-z]{3})")
"""M2M100's `__de__`, mBART's `de_DE` and NLLB's `deu_Latn`."""
FLAG = "--language"
_MARK = re.compile(r">>([^<>]+)<<")
"""Marian's `>>deu<<`, the first thing in a text."""


@dataclass(frozen=True)
class Language:
    """A language that a model can be asked for."""

    code: str
    id: int
    """Its token."""
    mark: str = ""
    """What is written before a text to ask for it; empty where its token is forced to be the answer's first."""


def target_languages(tokenizer: Any) -> dict[str, Language]:
    """Return the languages that a tokenizer of transformers has tokens for, by code; none for a model of one pair."""
    added = dict(tokenizer.get_added_vocab()) | dict(getattr(tokenizer, "lang_token_to_id", {}))
    found = {}
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        match = _FORCED.fullmatch(str(token))
        if match is not None:
            code = next(filter(None, match.groups()))
            found[code] = Language(code, int(number))
    for token, number in tokenizer.get_vocab().items():
        match = _MARK.fullmatch(token)
        if match is not None:
            found[match[1]] = Language(match[1], int(number), token)
    return found


def target_language(tokenizer: Any, code: str) -> Language:
    """Return the language named `code` (`de`, `de_DE`, `deu_Latn`, as the model has it).

    Raises:
        UsageError: the model has no such language, or is for one pair of them.

    """
    known = target_languages(tokenizer)
    if not known:
        raise UsageError(
            f"the model's tokenizer has no tokens of languages, so it cannot be asked for {code!r}",
            where=FLAG,
            hint="leave it out: a translator of one pair needs none, and a T5 is asked by its prefix (--prompt)",
        )
    if code not in known:
        raise UsageError(f"the model has no target language {code!r}", where=FLAG, hint=nearest(code, known))
    return known[code]
