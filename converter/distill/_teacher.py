"""The teacher's answers, asked anew for every batch, or once for all where they fit into memory."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from converter.distill._layers import Tapped
from converter.distill._text import Text, feed_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress

Answers = tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]
"""Outputs by name, and the hidden states."""

KEPT_BYTES = 256 * 2**20
"""Answers larger than this, all together, are not kept."""
ASKED_AT_ONCE = 32


@dataclass
class Teacher:
    """Never changed: it is run without gradients, and copied where it has to go to another device."""

    model: "TorchModel"
    texts: Sequence[Text]
    hidden: bool
    device: torch.device
    kept: list[dict[str, torch.Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.device.type != "cpu":
            self.model = replace(
                self.model, module=copy.deepcopy(self.model.module), head=copy.deepcopy(self.model.head)
            )
        self.tapped = Tapped(self.model, hidden=self.hidden).to(self.device)

    def answers(self, batch: "NDArray[np.int64]", feed: dict[str, torch.Tensor]) -> Answers:
        """Answer the texts of `batch`, which are padded in `feed`."""
        if self.kept is None:
            with torch.no_grad():
                return self.tapped(feed)
        rows = [self.kept[i] for i in batch]
        return {name: self._stack(name, [r[name] for r in rows], feed) for name in rows[0]}, ()

    def keep(self, progress: "Progress") -> bool:
        """Ask about every text once and keep the answers, unless they are too large; hidden states always are.

        All at once and always in the same batches: a resumed run must see the same bits as one that was not.
        """
        if self.hidden or self._expected_bytes() > KEPT_BYTES:
            return False
        kept: list[dict[str, torch.Tensor]] = [{} for _ in self.texts]
        order = np.argsort([e.length for _, e in self.texts], kind="stable")
        with progress.task("Asking the teacher", total=len(order)) as ticker:
            for at in range(0, len(order), ASKED_AT_ONCE):
                rows = order[at : at + ASKED_AT_ONCE]
                outputs, _ = self.answers(rows, self._feed(rows))
                for row, index in enumerate(rows):
                    kept[index] = {n: self._cut(n, value[row], index) for n, value in outputs.items()}
                ticker.advance(len(rows))
        self.kept = kept
        return True

    def _feed(self, batch: "NDArray[np.int64]") -> dict[str, torch.Tensor]:
        return feed_batch(self.model, self.texts, batch, self.device)

    def _expected_bytes(self) -> int:
        longest = np.array([np.argmax([e.length for _, e in self.texts])])
        outputs, _ = self.answers(longest, self._feed(longest))
        tokens, longest_length = sum(e.length for _, e in self.texts), self.texts[longest[0]][1].length
        return sum(
            v.numel() * v.element_size() * tokens // longest_length
            if n in self.model.task.token_outputs
            else v.numel() * v.element_size() * len(self.texts)
            for n, v in outputs.items()
        )

    def _cut(self, name: str, value: torch.Tensor, index: int) -> torch.Tensor:
        own = value[: self.texts[index][1].length] if name in self.model.task.token_outputs else value
        return own.cpu().clone()

    def _stack(self, name: str, rows: Sequence[torch.Tensor], feed: dict[str, torch.Tensor]) -> torch.Tensor:
        if name not in self.model.task.token_outputs:
            return torch.stack(list(rows)).to(self.device)
        length = feed["input_ids"].shape[1]
        made = torch.zeros(len(rows), length, *rows[0].shape[1:])
        for row, value in zip(made, rows, strict=True):
            row[: len(value)] = value
        return made.to(self.device)
