"""The teacher's answers, asked anew for every batch, or once for all where they fit on the disk."""

import copy
import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converter.graphs import MODEL, SEQUENCE
from converter.training.cached_answers import MEGABYTE, KeptAnswers, expected_bytes
from converter.training.checkpoint import digest_weights
from converter.training.layer_map import ForwardOutputs, moved
from converter.training.objective import DistillationObjective
from converter.training.texts import Text, feed_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Progress

ASKED_AT_ONCE = 32
KEPT = "teacher-answers"
"""Folder of what is kept, in the stage's scratch folder."""


@dataclass
class Teacher:
    """Never changed: it is run without gradients, and copied where it has to go to another device."""

    model: "TorchModel"
    texts: Sequence[Text]
    objective: DistillationObjective
    device: torch.device
    kept: KeptAnswers | None = None
    placed: bool = False
    """It is this process's own part already: no copy of it is made."""
    shared: MutableMapping[str, Any] | None = None
    """Answers that other trainings in this process have asked for; see `converter.stage.Context`."""

    def __post_init__(self) -> None:
        # What is on disk is read into main memory, and answers there.
        self.own = torch.device("cpu") if self.model.offloaded else self.device
        if self.own.type != "cpu":
            module = self.model.module if self.placed else copy.deepcopy(self.model.module)
            self.model = replace(self.model, module=module, head=copy.deepcopy(self.model.head))
        observed = self.objective.teacher(self.model)
        self.observed = observed if self.model.offloaded else observed.to(self.own)
        self._key = b""
        if self.shared is not None:
            self._key = f"{self.objective.key} {digest_weights(self.model.module)}".encode()

    def answers(self, batch: "NDArray[np.int64]", feed: dict[str, torch.Tensor]) -> ForwardOutputs:
        """Answer the texts of `batch`, which are padded in `feed`."""
        if self.kept is not None:
            return self.kept.take(batch, feed["input_ids"].shape[1], self.device)
        seen = self._asked({name: rows.to(self.own) for name, rows in feed.items()})
        return seen if self.own == self.device else moved(seen, self.device)

    def _asked(self, feed: dict[str, torch.Tensor]) -> ForwardOutputs:
        """Answer a batch, or take the answer to the same batch from what is shared: the same bits."""
        key = ""
        if self.shared is not None:
            told = hashlib.sha256(self._key)
            for name, rows in feed.items():
                told.update(f"{name}{tuple(rows.shape)}".encode() + rows.cpu().numpy().tobytes())
            key = f"answers {told.hexdigest()}"
            if key in self.shared:
                known: ForwardOutputs = self.shared[key]
                return known
        with torch.no_grad():
            seen: ForwardOutputs = self.observed(feed)
        if self.shared is not None:
            self.shared[key] = seen
        return seen

    def keep(self, folder: Path, most_mb: int, progress: "Progress") -> bool:
        """Ask about every text once and keep the answers under `folder`, unless they take more than `most_mb`.

        Always in the same batches, and whether they are kept does not depend on the machine: a resumed run must see the
        same bits as one that was not. What an earlier part of the same training has kept there is taken as it is.
        A model that writes text is asked anew: its answers are as wide as its vocabulary at every step.
        """
        if self.model.cache is not None:
            return False
        lengths = [e.length for _, e in self.texts]
        order = np.argsort(lengths, kind="stable")
        shown = self.answers(order[:1], self._feed(order[:1]))
        outputs = self.model.specs[MODEL].outputs_along(SEQUENCE)
        if expected_bytes(lengths, shown, outputs) > most_mb * MEGABYTE:
            return False
        whole = folder / self.objective.key / "whole"
        kept = KeptAnswers(whole.parent, lengths, shown, outputs, fresh=not whole.is_file())
        if not whole.is_file():
            with progress.task("Running the teacher", total=len(order)) as ticker:
                for at in range(0, len(order), ASKED_AT_ONCE):
                    rows = order[at : at + ASKED_AT_ONCE]
                    kept.put(rows, self.answers(rows, self._feed(rows)))
                    ticker.advance(len(rows))
            whole.touch()
        self.kept = kept
        return True

    def _feed(self, batch: "NDArray[np.int64]") -> dict[str, torch.Tensor]:
        return feed_batch(self.model, self.texts, batch, self.device)
