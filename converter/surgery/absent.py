"""What stands where a layer has lost all its heads or all its neurons: the bias that its output had."""

from typing import Any

import torch


class BiasOnly(torch.nn.Linear):
    """A linear layer without inputs: what it is given is not looked at, so that nothing before it is computed."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that torch gives it
        """Return the bias alone, `[out]`: it is added to a residual, which has all the other axes."""
        # ModernBERT's linears have none.
        bias = dict(self.named_parameters(recurse=False)).get("bias")
        return input.new_zeros(1) if bias is None else bias


class NoHeads(torch.nn.Module):
    """Attention without heads: keeps the (empty) linears under their names, so weights save and load alike.

    `output` names the linear that follows the heads where it is inside the attention module itself, `norm` the
    normalization after the residual where that is inside too.
    """

    def __init__(self, attention: Any, output: str = "", norm: str = "") -> None:
        super().__init__()
        for name, child in attention.named_children():
            self.add_module(name, child)
        self.__dict__.update({k: v for k, v in attention.__dict__.items() if not k.startswith("_")})
        self.output_name, self.norm_name = output, norm

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """Return what attention returns, and no weights."""
        made = self.get_submodule(self.output_name)(hidden_states) if self.output_name else hidden_states
        if self.norm_name:
            made = self.get_submodule(self.norm_name)(hidden_states + made)
        return made, None


def without_inputs(linear: torch.nn.Linear) -> None:
    """Turn a linear layer whose inputs are all gone into its bias, in place."""
    linear.__class__ = BiasOnly
