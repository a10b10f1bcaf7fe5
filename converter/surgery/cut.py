"""Cutting rows and columns of linear layers in place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def unit_rows(units: Sequence[int], width: int, n_units: int, blocks: int = 1) -> list[int]:
    """Return the rows of `units`, each `width` wide, in every one of `blocks` stacked blocks of `n_units`.

    >>> unit_rows([0, 2], 2, 3)
    [0, 1, 4, 5]
    >>> unit_rows([1], 1, 3, blocks=2)
    [1, 4]
    """
    return [
        (block * n_units + unit) * width + offset
        for block in range(blocks)
        for unit in units
        for offset in range(width)
    ]


def keep_rows(linear: "torch.nn.Linear", rows: Sequence[int]) -> None:
    """Keep these outputs of `linear`, bias included."""
    import torch

    index = torch.as_tensor(list(rows), dtype=torch.long, device=linear.weight.device)
    linear.weight = _cut(linear.weight, 0, index)
    if linear.bias is not None:
        linear.bias = _cut(linear.bias, 0, index)
    linear.out_features = len(rows)


def keep_columns(linear: "torch.nn.Linear", columns: Sequence[int]) -> None:
    """Keep these inputs of `linear`; of one that has none left, its bias."""
    import torch

    index = torch.as_tensor(list(columns), dtype=torch.long, device=linear.weight.device)
    linear.weight = _cut(linear.weight, 1, index)
    linear.in_features = len(columns)
    if not columns:
        from converter.surgery.absent import without_inputs

        without_inputs(linear)


def _cut(parameter: "torch.Tensor", dim: int, index: "torch.Tensor") -> "torch.nn.Parameter":
    import torch

    made = parameter.detach().index_select(dim, index).contiguous()
    return torch.nn.Parameter(made, requires_grad=parameter.requires_grad)
