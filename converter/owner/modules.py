"""The ways to misread a list of sentence-transformers modules: each is tried, to name the one that was made."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def wrong_readings(modules: Sequence[Any], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """Return lists that differ from `modules` in one thing, and what that is: file and field, in a sentence."""
    for i, module in enumerate(modules):
        yield f"modules.json: {names[i]} is not applied", [*modules[:i], *modules[i + 1 :]]
        yield from ((said, [*modules[:i], other, *modules[i + 1 :]]) for said, other in _fields(module, names[i]))
    yield from _orders(modules, names)


def _orders(modules: Sequence[Any], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    for i in range(len(modules)):
        for to in range(len(modules)):
            rest = [*modules[:i], *modules[i + 1 :]]
            moved = [*rest[:to], modules[i], *rest[to:]]
            if moved != list(modules):
                yield f"modules.json: {names[i]} is applied out of its order ({', '.join(names)})", moved


def _fields(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Return the module with one field of its config.json read otherwise."""
    import torch

    if getattr(module, "use_residual", False):
        yield f"{name}/config.json: use_residual is not applied", _with(module, "use_residual", False)
    if isinstance(getattr(module, "activation_function", None), torch.nn.Module):
        was = type(module.activation_function).__name__
        for other in (torch.nn.Identity(), torch.nn.Tanh()):
            said = f"{name}/config.json: activation_function is {was}, and not applied as such"
            yield said, _with(module, "activation_function", other)
    if hasattr(module, "include_prompt"):
        said = f"{name}/config.json: include_prompt is {str(module.include_prompt).lower()}, and read otherwise"
        yield said, _with(module, "include_prompt", not module.include_prompt)
    if hasattr(module, "pooling_mode"):
        modes: list[str | tuple[str, ...]] = [*POOLING_MODES, *_other_orders(module.pooling_mode)]
        for mode in modes:
            said = f"{name}/config.json: pooling_mode is {_mode(module.pooling_mode)}, and pooled as {_mode(mode)}"
            yield said, _pooled(module, mode)


def _other_orders(mode: str | tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the orders in which several vectors may be joined."""
    yield from () if isinstance(mode, str) else itertools.permutations(mode)


def _mode(mode: str | tuple[str, ...]) -> str:
    return mode if isinstance(mode, str) else " + ".join(mode)


def _pooled(module: Any, mode: str | tuple[str, ...]) -> Any:
    return type(module)(module.embedding_dimension, pooling_mode=mode, include_prompt=module.include_prompt)


def _with(module: Any, name: str, value: Any) -> Any:
    """Return the module with one attribute changed; its weights are shared."""
    made = copy.copy(module)
    made.__dict__ = {**module.__dict__, "_modules": dict(module.__dict__.get("_modules", {}))}
    setattr(made, name, value)
    return made
