"""Token ids of one example, as the model's own tokenizer makes them."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from converter.errors import SourceError
from converter.examples import Encoding, Example
from converter.graphs import ENCODER_INPUTS

MASK_EVERY = 7
"""One token of seven (15 %, as BERT was trained) is hidden where a text has no mask of its own …"""
MOST_MASKS = 3
"""… up to three: one mask's logits are as wide as the vocabulary."""
MASK_SPELLINGS = ("[MASK]", "<mask>")
WINDOW = 384
"""Tokens of question and context that are read at once, as transformers' pipeline does …"""
STRIDE = 128
"""… and those that two windows of a long context share."""

SPACED = ("a .", "a ?", "a !", "a ,", "a ' b", "do n't", "i 'm", "it 's", "i 've", "we 're")
"""Texts out of which `clean_up_tokenization_spaces` takes a space."""


def tidies_text(tokenizer: Any) -> bool:
    """Whether transformers changes what the tokenizer itself makes of ids: it does so for some kinds of tokenizers."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    spaced = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SPACED]
    own = tokenizer.backend_tokenizer
    return any(tokenizer.decode(ids, skip_special_tokens=True) != own.decode(ids) for ids in spaced)


def encode_text(tokenizer: Any, example: Example, max_length: int, prompt: str = "") -> Encoding:
    """Tokenize a text or a pair, truncated to `max_length` tokens (one window: what follows is not read).

    `prompt` stands before the (first) text.
    """
    example = replace(example, text=prompt + example.text) if prompt else example
    if example.pair is not None:
        made = tokenizer(example.text, example.pair, truncation="longest_first", max_length=max_length)
    else:
        made = tokenizer(example.text, truncation=True, max_length=max_length)
    return from_batch_encoding(made)


def first_token(tokenizer: Any) -> int | None:
    """Return what a text without a token begins with: its beginning token, or else its end token; None: neither."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return None if first is None else int(first)


def encode_words(tokenizer: Any, example: Example, max_length: int) -> Encoding:
    """Tokenize the text; where it comes in words, they are joined by spaces and tokens are told their word.

    Joined, because that is what a user types: a byte-level tokenizer gives words that come split other ids, without
    their leading space.
    """
    if example.words is None:
        return encode_text(tokenizer, replace(example, pair=None), max_length)
    text = " ".join(example.words)
    owner: list[int | None] = []
    for index, word in enumerate(example.words):
        owner += [index] * len(word) + [None]
    encoding = from_batch_encoding(tokenizer(text, truncation=True, max_length=max_length))
    return replace(encoding, word_ids=tuple(_word_of(start, end, text, owner) for start, end in encoding.offsets))


def _word_of(start: int, end: int, text: str, owner: list[int | None]) -> int | None:
    """Return the word that a token of these characters belongs to; a space of its own belongs to the word after it."""
    if start == end:
        return None
    last = end if text[end - 1].isspace() else end - 1
    return owner[last] if last < len(owner) else None


def encode_question(tokenizer: Any, example: Example, max_length: int) -> Encoding:
    """Tokenize question and context: of a long context the window that the example names (the last that there is)."""
    found = question_windows(tokenizer, example.text, example.pair or "", max_length)
    return found[min(example.window, len(found) - 1)]


@lru_cache(maxsize=4)
def question_windows(tokenizer: Any, question: str, context: str, max_length: int) -> tuple[Encoding, ...]:
    """Return the overlapping windows of a context, each behind the whole question, as transformers' pipeline cuts them.

    A question that alone is too long is cut, and there is one window.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    question_length = len(tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
    if question_length >= room:
        return (from_batch_encoding(tokenizer(question, context, truncation="longest_first", max_length=max_length)),)
    made = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=question_stride(max_length, room - question_length),
        return_overflowing_tokens=True,
    )
    return tuple(
        Encoding(
            inputs={n: np.asarray(made[n][i], dtype=np.int64) for n in ENCODER_INPUTS if n in made},
            word_ids=tuple(one.word_ids),
            sequence_ids=tuple(one.sequence_ids),
            offsets=tuple(one.offsets),
        )
        for i, one in enumerate(made.encodings)
    )


def question_stride(max_length: int, room: int) -> int:
    """Return how many tokens of the context two windows share: transformers' 128, or half a window where that is less.

    `room` is what a window has for the context: a long question leaves little, and then they share half of that.
    """
    stride = min(STRIDE, max_length // 2)
    return stride if stride < room * 3 // 4 else room // 2


def encode_masked(tokenizer: Any, example: Example, max_length: int) -> Encoding:
    """Tokenize a text with masks; a text without any gets masks at fixed positions.

    The gold token is the hidden one, or the label's word where that is one token.

    Raises:
        SourceError: the tokenizer has no mask token.

    """
    if tokenizer.mask_token_id is None:
        raise SourceError("the tokenizer has no mask token", hint="set mask_token in tokenizer_config.json")
    text = example.text
    for spelling in MASK_SPELLINGS:
        text = text.replace(spelling, tokenizer.mask_token)
    made = tokenizer(text, truncation=True, max_length=max_length, return_special_tokens_mask=True)
    encoding = from_batch_encoding(made)
    ids = encoding.inputs["input_ids"]
    given = np.flatnonzero(ids == tokenizer.mask_token_id)
    if len(given):
        gold = _word_targets(tokenizer, example, len(given))
        return replace(encoding, masked=tuple(zip((int(p) for p in given), gold, strict=True)))
    real = np.flatnonzero(np.asarray(made["special_tokens_mask"]) == 0)
    chosen = real[min(3, max(0, len(real) - 1)) :: MASK_EVERY][:MOST_MASKS]
    masked = tuple((int(p), int(ids[p]) if ids[p] != tokenizer.unk_token_id else -1) for p in chosen)
    hidden = ids.copy()
    hidden[chosen] = tokenizer.mask_token_id
    return replace(encoding, inputs={**encoding.inputs, "input_ids": hidden}, masked=masked)


def _word_targets(tokenizer: Any, example: Example, n_masks: int) -> list[int]:
    words = [w for w in example.label if isinstance(w, str)] if isinstance(example.label, tuple) else []
    found = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words[:n_masks]]
    targets = [ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else -1 for ids in found]
    return targets + [-1] * (n_masks - len(targets))


def from_batch_encoding(made: Any) -> Encoding:
    """Keep what this project uses of a tokenizer's result."""
    fast = made.encodings[0]
    return Encoding(
        inputs={n: np.asarray(made[n], dtype=np.int64) for n in ENCODER_INPUTS if n in made},
        word_ids=tuple(fast.word_ids),
        sequence_ids=tuple(fast.sequence_ids),
        offsets=tuple(fast.offsets),
        truncated=bool(fast.overflowing),
    )
