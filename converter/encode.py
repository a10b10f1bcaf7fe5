"""Token ids of one example, as the model's own tokenizer makes them."""

from typing import Any

import numpy as np

from converter.examples import INPUT_NAMES, Encoding, Example


def encode_text(tokenizer: Any, example: Example, max_length: int) -> Encoding:
    """Tokenize a text, a pair, or a text split into words, truncated to `max_length` tokens."""
    if example.words is not None:
        made = tokenizer(list(example.words), is_split_into_words=True, truncation=True, max_length=max_length)
    elif example.pair is not None:
        made = tokenizer(example.text, example.pair, truncation="longest_first", max_length=max_length)
    else:
        made = tokenizer(example.text, truncation=True, max_length=max_length)
    return from_batch_encoding(made)


def from_batch_encoding(made: Any) -> Encoding:
    """Keep what this project uses of a tokenizer's result."""
    fast = made.encodings[0]
    return Encoding(
        inputs={n: np.asarray(made[n], dtype=np.int64) for n in INPUT_NAMES if n in made},
        word_ids=tuple(fast.word_ids),
        sequence_ids=tuple(fast.sequence_ids),
        offsets=tuple(fast.offsets),
        truncated=bool(fast.overflowing),
    )
