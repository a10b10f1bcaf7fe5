"""What every library of an owner can be asked, and what they share.

Nothing of this room reads the folder as our own loader does: it exists so that a misreading shows.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import Example

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Outputs = Mapping[str, "NDArray[np.float32]"]
"""Of one text, by the names that our graph gives them, without padding."""
ADAPTER_FILE = "adapter_config.json"
UNBOUNDED = 10**6
"""Tokenizers without a limit state about 1e30."""


class NotAvailable(Exception):
    """The library cannot be had for this folder; the message is the reason, for people."""


@dataclass(frozen=True)
class Question:
    """One raw text. `hidden`: positions of tokens to put a mask on, for masked language models."""

    example: Example
    hidden: tuple[int, ...] = ()


class OwnerLibrary(ABC):
    """One folder, opened by the library of its owner in float32 and evaluation mode, on the CPU."""

    name: str
    """Library and version, such as `sentence-transformers 6.2.0`."""
    call: str
    """What a user calls, such as `SentenceTransformer.encode`."""
    folder: Path
    encoder: Any
    """The transformers model inside."""
    tokenizer: Any
    prompt: str = ""
    """What the library puts before each text."""

    def cut_at(self, tokens: int) -> None:
        """Cut texts at a limit that the user chose, where that is less than the folder's own."""
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, tokens)

    def takes(self, example: Example) -> bool:
        """Tell whether the library can be asked about such an example at all."""
        return True

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits, as the library tells them."""
        names = getattr(self.encoder.config, "id2label", None) or {}
        return tuple(str(names[i]) for i in sorted(names))

    @abstractmethod
    def alone(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        """Answer one text after the other, each by a call of its own."""

    @abstractmethod
    def together(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        """Answer all texts as one batch, padded as the library pads."""

    @abstractmethod
    def fed(self, question: Question) -> "dict[str, NDArray[np.int64]]":
        """Return what the library feeds its model for this text: `[length]` each, by the model's own names."""

    def variants(self, question: Question) -> Iterator[tuple[str, Outputs]]:
        """Answer the text under readings that are wrong in one thing, which the sentence names.

        Whichever gives our own answer explains it.
        """
        yield from ()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def array(value: "torch.Tensor") -> "NDArray[Any]":
    return np.asarray(value.detach().cpu().numpy())


def is_real(fed: "Mapping[str, torch.Tensor]", row: int) -> "NDArray[np.bool_]":
    """Return which tokens of a row are not padding."""
    if "attention_mask" not in fed:
        return np.ones(fed["input_ids"].shape[1], dtype=bool)
    return array(fed["attention_mask"][row]).astype(bool)


def own_tokens(fed: "Mapping[str, torch.Tensor]", row: int) -> "dict[str, NDArray[np.int64]]":
    """Return what was fed for one text, without its padding: everything with a value for each token."""
    real = is_real(fed, row)
    shape = tuple(fed["input_ids"].shape)
    return {n: array(v[row])[real] for n, v in fed.items() if hasattr(v, "shape") and tuple(v.shape[:2]) == shape}


def without_adapter(module: Any) -> Any:
    """Return the model inside PEFT's wrapper, which takes anything and hands it on; any other model as it is."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module
