"""What the tests of distillation share: labelled texts, quick options, and a progress that interrupts."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from converter.artifact import TorchModel
from converter.examples import Example
from converter.stage import SILENT
from converter.training.checkpoint import digest_tensors
from converter.training.layer_map import ObservedForward
from converter.training.texts import encode_texts, feed_batch
from tests.tiny import SENTENCES

TEXTS = tuple(Example(text, label=i % 3, where=f"text {i}") for i, text in enumerate(SENTENCES))
QUICK: dict[str, Any] = {"batch_size": 8, "learning_rate": 2e-3}
"""Three steps an epoch of 20 texts."""


def digest(model: TorchModel) -> str:
    return digest_tensors(model.module.state_dict())


def distance(student: TorchModel, teacher: TorchModel) -> float:
    """Mean squared distance of log probabilities (divergence does not see what is added to all logits alike)."""
    texts = encode_texts(teacher, TEXTS, 64, SILENT)
    feed = feed_batch(teacher, texts, range(len(texts)), torch.device("cpu"))
    with torch.inference_mode():
        found, wanted = (ObservedForward(m)(feed).outputs["logits"].log_softmax(-1) for m in (student, teacher))
    return float((found - wanted).square().mean())


@dataclass
class Watching:
    """Progress that is remembered, and interrupts at a step of the training."""

    interrupt_at: int | None = None
    notes: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator["Watching"]:
        yield self

    def advance(self, steps: float = 1) -> None:
        if self.interrupt_at is not None and len(self.shown) == self.interrupt_at:
            raise KeyboardInterrupt

    def describe(self, text: str) -> None:
        self.shown.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
