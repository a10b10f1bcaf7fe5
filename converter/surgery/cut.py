"""Cutting rows and columns of linear layers in place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


def keep_rows(linear: "torch.nn.Module", rows: Sequence[int]) -> None:
    """Keep these outputs of `linear`, bias included."""
    import torch

    made: Any = linear
    index = torch.as_tensor(list(rows), dtype=torch.long, device=made.weight.device)
    made.weight = _cut(made.weight, 1 if is_transposed(linear) else 0, index)
    if made.bias is not None:
        made.bias = _cut(made.bias, 0, index)
    if is_transposed(linear):
        made.nf = len(rows)
    else:
        made.out_features = len(rows)


def keep_columns(linear: "torch.nn.Module", columns: Sequence[int]) -> None:
    """Keep these inputs of `linear`; of one that has none left, its bias."""
    import torch

    made: Any = linear
    index = torch.as_tensor(list(columns), dtype=torch.long, device=made.weight.device)
    made.weight = _cut(made.weight, 0 if is_transposed(linear) else 1, index)
    if is_transposed(linear):
        made.nx = len(columns)
        return
    made.in_features = len(columns)
    if not columns:
        from converter.surgery.absent import without_inputs

        without_inputs(made)


def is_transposed(linear: "torch.nn.Module") -> bool:
    """Tell GPT-2's `Conv1D`, a linear layer whose weight is `[inputs, outputs]`."""
    return hasattr(linear, "nf")


def inputs_of(linear: "torch.nn.Module") -> int:
    """Return the number of inputs of a linear layer of either kind."""
    weight: Any = linear.weight
    return int(weight.shape[0 if is_transposed(linear) else 1])


def outputs_of(linear: "torch.nn.Module") -> int:
    """Return the number of outputs of a linear layer of either kind."""
    weight: Any = linear.weight
    return int(weight.shape[1 if is_transposed(linear) else 0])


def matrix_of(linear: "torch.nn.Module") -> "torch.Tensor":
    """Return the weight of a linear layer of either kind as `[outputs, inputs]`, a view of its own."""
    weight: Any = linear.weight
    return weight.T if is_transposed(linear) else weight


def _cut(parameter: "torch.Tensor", dim: int, index: "torch.Tensor") -> "torch.nn.Parameter":
    import torch

    made = parameter.detach().index_select(dim, index).contiguous()
    return torch.nn.Parameter(made, requires_grad=parameter.requires_grad)
