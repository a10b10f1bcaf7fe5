"""Counting parameters."""

from converter.artifact import TorchModel


def n_parameters(model: TorchModel) -> int:
    """Count parameters, shared ones once."""
    return sum(p.numel() for p in model.module.parameters())
