"""The teacher's answers to all texts, on disk: asked once, read again in every epoch."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from converter.errors import StageFailed
from converter.training.layer_map import ForwardOutputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEGABYTE = 10**6
LARGEST = 65504.0
"""Of float16: larger states are kept as this."""


class KeptAnswers:
    """Outputs as they were, states of tokens in float16; files mapped into memory, so they may be larger than it."""

    def __init__(
        self, folder: Path, lengths: Sequence[int], shown: ForwardOutputs, token_outputs: Sequence[str], *, fresh: bool
    ) -> None:
        """Lay out files under `folder` for texts of `lengths` tokens; `shown` is the answer to any text, alone.

        Not `fresh`: the files are there, and whole.

        Raises:
            StageFailed: the disk has no room for them.

        """
        self.folder, self.token_outputs = folder, tuple(token_outputs)
        self.mode: Literal["w+", "r"] = "w+" if fresh else "r"
        self.starts = np.cumsum([0, *lengths])
        self.n_hidden = len(shown.hidden)
        self.widths = [state.shape[-1] for state in (*shown.hidden, *shown.relations)]
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = expected_bytes(lengths, shown, token_outputs), shutil.disk_usage(folder).free
        if fresh and needed > free:
            raise StageFailed(
                f"the teacher's outputs take {needed // MEGABYTE} MB, {folder} has {free // MEGABYTE} left",
                hint="cache_mb=0 runs the teacher for every batch instead",
            )
        self.outputs = {
            name: self._file(name, (self._rows(name), *value.shape[2 if name in token_outputs else 1 :]), np.float32)
            for name, value in shown.outputs.items()
        }
        self.states = self._file("states", (int(self.starts[-1]), sum(self.widths)), np.float16)

    def put(self, batch: "Sequence[int] | NDArray[np.int64]", seen: ForwardOutputs) -> None:
        """Keep what the teacher showed of the texts `batch`."""
        outputs = {name: value.cpu().numpy() for name, value in seen.outputs.items()}
        shown = [state.cpu().clamp(-LARGEST, LARGEST) for state in (*seen.hidden, *seen.relations)]
        states = torch.cat(shown, dim=-1).numpy() if shown else None
        for row, text in enumerate(batch):
            tokens = self._tokens(text)
            for name, value in outputs.items():
                if name in self.token_outputs:
                    self.outputs[name][tokens] = value[row, : tokens.stop - tokens.start]
                else:
                    self.outputs[name][text] = value[row]
            if states is not None:
                self.states[tokens] = states[row, : tokens.stop - tokens.start]

    def take(self, batch: "Sequence[int] | NDArray[np.int64]", length: int, device: torch.device) -> ForwardOutputs:
        """Return what was kept of the texts `batch`, padded with zeros to `length` tokens."""
        outputs = {
            name: torch.from_numpy(
                self._padded(kept, batch, length) if name in self.token_outputs else kept[np.asarray(batch)]
            ).to(device)
            for name, kept in self.outputs.items()
        }
        if not self.widths:
            return ForwardOutputs(outputs)
        states = torch.split(torch.from_numpy(self._padded(self.states, batch, length)).to(device), self.widths, dim=-1)
        return ForwardOutputs(outputs, states[: self.n_hidden], states[self.n_hidden :])

    def _file(self, name: str, shape: tuple[int, ...], dtype: Any) -> "NDArray[Any]":
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.folder / f"{name}.bin", mode=self.mode, dtype=dtype, shape=shape)

    def _rows(self, name: str) -> int:
        return int(self.starts[-1]) if name in self.token_outputs else len(self.starts) - 1

    def _tokens(self, text: int) -> slice:
        return slice(int(self.starts[text]), int(self.starts[text + 1]))

    def _padded(
        self, kept: "NDArray[Any]", batch: "Sequence[int] | NDArray[np.int64]", length: int
    ) -> "NDArray[np.float32]":
        made = np.zeros((len(batch), length, *kept.shape[1:]), np.float32)
        for row, text in enumerate(batch):
            own = kept[self._tokens(text)]
            made[row, : len(own)] = own
        return made


def expected_bytes(lengths: Sequence[int], shown: ForwardOutputs, token_outputs: Sequence[str]) -> int:
    """Return what the answers to texts of `lengths` tokens would take, told by one of them."""
    n_tokens = sum(lengths)
    states = sum(state.shape[-1] for state in (*shown.hidden, *shown.relations))
    made = 2 * states * n_tokens
    for name, value in shown.outputs.items():
        per_token = name in token_outputs
        made += 4 * (n_tokens if per_token else len(lengths)) * int(np.prod(value.shape[2 if per_token else 1 :]))
    return made
