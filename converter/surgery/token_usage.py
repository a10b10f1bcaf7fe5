"""Which tokens a text takes, and on which texts two tokenizers differ."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from converter.data.encode import MASK_SPELLINGS
from converter.examples import Example

if TYPE_CHECKING:
    from converter.stage import Ticker

AT_ONCE = 256


def texts_of(examples: Iterable[Example], mask_token: str | None, prompt: str = "") -> Iterator[str]:
    """Yield all text of `examples`, whole and as their tasks write it, words behind masks among it."""
    for example in examples:
        yield from _spelled(prompt + example.text, mask_token)
        if example.pair is not None:
            yield example.pair
        if example.words is not None:
            yield " ".join(example.words)
        if isinstance(example.label, tuple):
            yield from (f" {word}" for word in example.label if isinstance(word, str))


def _spelled(text: str, mask_token: str | None) -> Iterator[str]:
    yield text
    if mask_token is not None and any(s in text for s in MASK_SPELLINGS):
        for spelling in MASK_SPELLINGS:
            text = text.replace(spelling, mask_token)
        yield text


def count_tokens(tokenizer: Any, texts: Sequence[str], ticker: "Ticker") -> Counter[int]:
    """Count the ids of `texts`, nothing cut off."""
    found: Counter[int] = Counter()
    for chunk in _chunks(texts):
        for ids in _ids(tokenizer, chunk):
            found.update(ids)
        ticker.advance(len(chunk))
    return found


def split_otherwise(wanted: Any, found: Any, texts: Sequence[str], ticker: "Ticker") -> list[int]:
    """Return the indices of the texts that the tokenizer `found` tokenizes differently than `wanted`."""
    other = []
    done = 0
    for chunk in _chunks(texts):
        pairs = zip(_tokens(wanted, chunk), _tokens(found, chunk), strict=True)
        other += [done + i for i, (a, b) in enumerate(pairs) if a != b]
        done += len(chunk)
        ticker.advance(len(chunk))
    return other


def pieces(tokenizer: Any, text: str) -> list[str]:
    return _tokens(tokenizer, [text])[0]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    made: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)[
        "input_ids"
    ]
    return made


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(ids) for ids in _ids(tokenizer, texts)]


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, AT_ONCE)):
        yield chunk
