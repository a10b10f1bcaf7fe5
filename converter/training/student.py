"""The copy that learns: what of it is trained, and what stays as it is."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from converter.training.layer_map import ObservedForward

if TYPE_CHECKING:
    from converter.artifact import TorchModel


def copy_to_train(given: "TorchModel", *, freeze_embeddings: bool) -> "TorchModel":
    """Return a copy that may be trained; the sentence head stays as it is, as packages copy it from the source."""
    module = copy.deepcopy(given.module).requires_grad_(requires_grad=True)
    if freeze_embeddings:
        tables = [m for m in module.modules() if isinstance(m, torch.nn.Embedding)]
        for table in tables:
            table.requires_grad_(requires_grad=False)
    head = None if given.head is None else copy.deepcopy(given.head).requires_grad_(requires_grad=False)
    return replace(given, module=module, head=head)


def learned(student: ObservedForward) -> list[tuple[str, torch.nn.Parameter]]:
    """Return what is trained, tied parameters once."""
    return [(n, p) for n, p in student.named_parameters() if p.requires_grad]


def groups(student: ObservedForward, decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: biases and norms do not decay."""
    found = [p for _, p in learned(student)]
    return [
        {"params": [p for p in found if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in found if p.dim() <= 1], "weight_decay": 0.0},
    ]


def pruned_places(student: ObservedForward, device: torch.device) -> dict[str, torch.Tensor]:
    """Return where matrices were pruned to zero: they stay so."""
    made = {}
    for name, parameter in learned(student):
        zeros = parameter == 0
        if parameter.dim() > 1 and 0 < int(zeros.sum()) < parameter.numel():
            made[name] = zeros.to(device)
    return made
