"""Heads behind earlier layers of a classifier, whose answer counts wherever they are confident of it.

The answer of a text is that of the first head that is confident enough, and else the model's own: whichever texts stand
beside it. A runtime that leaves there saves the layers behind.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from converter.artifact import EXITS
from converter.model_folder.replacement_map import ascending


class ExitHead(torch.nn.Module):
    """Classes from the state of the first token: `[batch, width]` to `[batch, classes]`."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(width, width)
        self.out = torch.nn.Linear(width, classes)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out(torch.tanh(self.dense(state)))
        return made


class EarlyExits(torch.nn.Module):
    """A head for each of some layers (counted from 0), and how confident it must be."""

    kind = "early-exit"
    weightless = True  # no weight tells which layers it reads
    thresholds: torch.Tensor

    def __init__(self, layers: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.layers, self.width, self.classes = tuple(layers), width, classes
        self.heads = torch.nn.ModuleList(ExitHead(width, classes) for _ in layers)
        self.register_buffer("thresholds", torch.full((len(self.layers),), 2.0))

    def forward(self, states: Sequence[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        """Return `[batch, classes]`; `states` are the embeddings' and every layer's, `[batch, length, width]`."""
        for i in reversed(range(len(self.layers))):
            found = self.heads[i](states[self.layers[i] + 1][:, 0])
            sure = confidence(found)[:, None] >= self.thresholds[i]
            logits = torch.where(sure, found, logits)
        return logits

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "layers": list(self.layers), "width": self.width, "classes": self.classes}


def confidence(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of the likeliest class, `[batch]`."""
    return torch.softmax(logits, dim=-1).amax(dim=-1)


def empty_exits(spec: Mapping[str, Any], config: Any) -> EarlyExits:
    """Return heads without weights, for a model of this configuration.

    Raises:
        KeyError, ValueError: the spec is damaged, or of another model.

    """
    layers, n_layers = ascending(spec["layers"]), int(config.num_hidden_layers)
    if layers[-1] > n_layers - 2:
        raise ValueError(f"there are exits behind the layers {layers} of {n_layers}")
    for what, fits in (("width", config.hidden_size), ("classes", config.num_labels)):
        if type(spec[what]) is not int or spec[what] != fits:
            raise ValueError(f"{what} is {spec[what]!r}, and that of the model {fits}")
    return EarlyExits(layers, spec["width"], spec["classes"])


def exits_of(module: torch.nn.Module) -> EarlyExits | None:
    """Return the exits of a model; None where it has none."""
    found = getattr(module, EXITS, None)
    return found if isinstance(found, EarlyExits) else None
