"""Text to judge and calibrate by, and its token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Every encoder input this tool knows, in the order that graphs list them."""


@dataclass(frozen=True)
class Answer:
    """Gold answers of a question: texts and character starts in the context."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


Label = int | float | tuple[int, ...] | tuple[str, ...] | Answer | None


@dataclass(frozen=True)
class Example:
    """One text, or a pair, as a user would type it; `words` where it comes split into words.

    For question answering `text` is the question and `pair` the context. `label` is a class index, a score, a tuple of
    0/1 (multi-label), a tuple of tag names (one a word), an `Answer`, or None where the data has none.
    """

    text: str
    pair: str | None = None
    words: tuple[str, ...] | None = None
    label: Label = None
    where: str = ""
    group: str = ""
    """Examples of one group are sampled and scored together: the two texts of a similarity pair."""
    window: int = 0
    """Which of the overlapping windows of a long text this is: the text is whole in each of them."""


@dataclass(frozen=True)
class Encoding:
    """Token ids of one example, without padding.

    `inputs` maps each input name to int64 `[length]`. `word_ids` and `offsets` (characters, per token) are there for
    tags and spans; `sequence_ids` tells the question (0) from the context (1), None for special tokens. `masked`
    pairs each mask's position with the token id behind it (-1: not known).
    """

    inputs: dict[str, "NDArray[np.int64]"]
    word_ids: tuple[int | None, ...] = ()
    sequence_ids: tuple[int | None, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    truncated: bool = False
    masked: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        return int(self.inputs["input_ids"].shape[0])


@dataclass(frozen=True)
class PadIds:
    """What each input is filled with beyond a text's own tokens."""

    ids: dict[str, int] = field(default_factory=lambda: {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0})

    @classmethod
    def of(cls, tokenizer: Any) -> "PadIds":
        pad = tokenizer.pad_token_id
        return cls({"input_ids": 0 if pad is None else int(pad), "attention_mask": 0, "token_type_ids": 0})


def pad_batch(encodings: Sequence[Encoding], pad: PadIds, length: int | None = None) -> dict[str, "NDArray[np.int64]"]:
    """Stack encodings to int64 `[batch, length]`; `length` defaults to the longest, and may not be shorter."""
    wanted = max(e.length for e in encodings) if length is None else length
    made: dict[str, NDArray[np.int64]] = {}
    for name in encodings[0].inputs:
        rows = np.full((len(encodings), wanted), pad.ids[name], dtype=np.int64)
        for row, encoding in zip(rows, encodings, strict=True):
            row[: encoding.length] = encoding.inputs[name]
        made[name] = rows
    return made
