"""Text to judge and calibrate by, and its token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.graphs import SEQUENCE, GraphSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """Gold answers of a question: texts and character starts in the context."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class References:
    """What should be written about a text: right answers, any of them; none where the text itself is scored.

    `prompt`: the text is there to be gone on behind as it is, and no whole text of which that could be asked in part.
    """

    texts: tuple[str, ...]
    prompt: bool = False


Label = int | float | tuple[int, ...] | tuple[str, ...] | Answer | References | None


@dataclass(frozen=True)
class Example:
    """One text, or a pair, as a user would type it; `words` where it comes split into words.

    For question answering `text` is the question and `pair` the context. `label` is a class index, a score, a tuple of
    0/1 (multi-label), a tuple of tag names (one a word), an `Answer`, `References`, or None where the data has none.
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


def units_of(examples: Sequence[Example]) -> list[list[int]]:
    """Return which examples make one text of a metric: all windows of it, both texts of a pair."""
    found: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        found.setdefault(example.group or replace(example, window=0), []).append(i)
    return list(found.values())


def text_key(example: Example) -> tuple[str, ...]:
    """Return what tells a text from others, whatever file, label or window it stands with."""
    return (example.text, example.pair or "", *(example.words or ()))


class Origin(StrEnum):
    """Whose text a package is judged on; the words stand behind a verdict."""

    OWN = "own text"
    CALIBRATION = "calibration text"
    BUILT_IN = "built-in text"


SLICES = ("label", "length", "script", "rare")
"""What judged texts are sliced by; see `converter.validate.slices`."""


@dataclass(frozen=True)
class JudgedText:
    """What is known of the text that a package is judged on, and how its figures decide."""

    origin: Origin = Origin.BUILT_IN
    confidence: float = 0.95
    """Of each bound; on text of the user's own the gate decides on them."""
    calibrated: frozenset[tuple[str, ...]] = frozenset()
    """`text_key` of the texts that stages measure and learn on."""
    slices: tuple[str, ...] = SLICES
    drop_asked: bool = False
    """The user set the limit on the metric: where the texts do not settle it, nothing is proven."""


@dataclass(frozen=True)
class Encoding:
    """Token ids of one example, without padding.

    `inputs` maps each input name to int64 `[length]`, `lengths` each axis that texts differ on to this one's length on
    it: an encoder has one, the sequence, and it is taken from `input_ids` where nothing is given. `word_ids` and
    `offsets` (characters, per token) are there for tags and spans; `sequence_ids` tells the question (0) from the
    context (1), None for special tokens. `masked` pairs each mask's position with the token id behind it (-1: not
    known). `answer` is what the source writes after it (about it, for an encoder-decoder): token ids, int64 `[steps]`,
    without a start token; None where nothing is known of that.
    """

    inputs: dict[str, "NDArray[np.int64]"]
    word_ids: tuple[int | None, ...] = ()
    sequence_ids: tuple[int | None, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    truncated: bool = False
    masked: tuple[tuple[int, int], ...] = ()
    lengths: Mapping[str, int] = field(default_factory=dict)
    answer: "NDArray[np.int64] | None" = None

    def __post_init__(self) -> None:
        if not self.lengths:
            object.__setattr__(self, "lengths", {SEQUENCE: len(self.inputs["input_ids"])})
        for name, ids in self.inputs.items() if self.answer is None else ():
            if len(ids) not in self.lengths.values():
                raise ValueError(f"{name} has {len(ids)} positions, which is the length of no axis: {self.lengths}")

    @property
    def length(self) -> int:
        """Positions on the longest axis: what limits of length are for, and what texts are sorted and batched by."""
        return max(self.lengths.values())

    def resized(self, length: int) -> "Encoding":
        """Return the same tokens, cut or repeated to `length` of them on the sequence axis, for timing and shapes."""
        same = {n: ids for n, ids in self.inputs.items() if len(ids) != self.lengths[SEQUENCE]}
        cut = {n: np.resize(ids, length) for n, ids in self.inputs.items() if n not in same}
        return Encoding({**same, **cut}, lengths={**self.lengths, SEQUENCE: length})

    def has_tokens_of(self, other: "Encoding") -> bool:
        """Tell whether it has the inputs of another one."""
        return all(np.array_equal(mine, other.inputs[name]) for name, mine in self.inputs.items())


def pad_batch(
    encodings: Sequence[Encoding], spec: GraphSpec, lengths: Mapping[str, int] | None = None
) -> dict[str, "NDArray[np.int64]"]:
    """Stack encodings into what a graph takes of them, padded as it declares.

    An axis is as long as the longest text, or as `lengths` says, which may not be less.
    """
    wanted = {axis: max(e.lengths[axis] for e in encodings) for axis in encodings[0].lengths} | dict(lengths or {})
    made: dict[str, NDArray[np.int64]] = {}
    for tensor in (t for t in spec.inputs if t.name in encodings[0].inputs):
        rows = np.full((len(encodings), wanted[str(tensor.axes[1])]), tensor.fill, dtype=np.int64)
        for row, encoding in zip(rows, encodings, strict=True):
            ids = encoding.inputs[tensor.name]
            row[(slice(len(row) - len(ids), None) if tensor.side == "left" else slice(0, len(ids)))] = ids
        made[tensor.name] = rows
    return made
