"""The folder is the registry: `prune.heads` is the one stage class in `converter/prune/heads.py`.

Nothing is listed by hand. Stages, tasks, families and targets are found by the name of their file, and an import that
fails is an error, not a warning.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from converter.errors import RecipeError, UsageError, nearest

if TYPE_CHECKING:
    from types import ModuleType

    from converter.family import Family
    from converter.precision import Quantizer
    from converter.stage import Stage
    from converter.target import Target
    from converter.task import Task

KINDS = ("trim", "prune", "share", "factorize", "distill", "adapt", "quantize")
"""Folders of stages that a recipe may name."""

T = TypeVar("T")


@cache
def names(package: str) -> tuple[str, ...]:
    """Return the public module names of a package folder, sorted, without importing them."""
    module = importlib.import_module(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_")))


def stage_names() -> tuple[str, ...]:
    return tuple(f"{kind}.{name}" for kind in KINDS for name in names(f"converter.{kind}"))


def stage_class(name: str) -> "type[Stage[Any, Any]]":
    """Return the stage class of `folder.file`.

    Raises:
        RecipeError: there is none; the nearest is named.

    """
    from converter.stage import Stage

    wanted = name.replace("-", "_")
    if wanted not in stage_names():
        raise RecipeError(f"there is no stage {name!r}", hint=nearest(wanted, stage_names()))
    found = _only_class(importlib.import_module(f"converter.{wanted}"), Stage)
    found.name = wanted
    return found


@cache
def quantizers(target: str) -> "dict[str, type[Quantizer[Any]]]":
    """Return the quantizers that are for a target, by the name of the precision that each makes."""
    from converter.precision import Quantizer

    found = (
        _only_class(importlib.import_module(f"converter.quantize.{n}"), Quantizer) for n in names("converter.quantize")
    )
    return {cls.precision.name: cls for cls in found if cls.target == target}


def target_names() -> tuple[str, ...]:
    return tuple(name.replace("_", "-") for name in names("targets"))


def target_class(name: str) -> "type[Target]":
    """Return the target class of `targets/<name>.py`; `-` and `_` alike."""
    from converter.target import Target

    wanted = name.replace("-", "_")
    if wanted not in names("targets"):
        raise UsageError(f"there is no target {name!r}", hint=nearest(name, target_names()))
    return _only_class(importlib.import_module(f"targets.{wanted}"), Target)


@cache
def default_target() -> "type[Target]":
    """Return the target of a run that names none."""
    found = [cls for cls in map(target_class, target_names()) if cls.default]
    if len(found) != 1:
        raise TypeError(f"one target must be the default, {len(found)} are: {[cls.name for cls in found]}")
    return found[0]


def targets_with(option: str) -> "tuple[str, ...]":
    """Return the targets that have an option of this name, as `--target NAME:option=VALUE` sets it."""
    return tuple(name for name in target_names() if option in _options(target_class(name)))


def quantizers_with(option: str, target: str) -> "tuple[str, ...]":
    """Return the precisions of a target whose quantizers have an option of this name, in the order of its menu."""
    made = quantizers(target_class(target).name)
    return tuple(name for name in target_class(target).menu() if name in made and option in _options(made[name]))


def _options(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def task_names() -> tuple[str, ...]:
    return tuple(name.replace("_", "-") for name in names("converter.tasks"))


def task_class(name: str) -> "type[Task]":
    from converter.task import Task

    wanted = name.replace("-", "_")
    if wanted not in names("converter.tasks"):
        raise UsageError(f"there is no task {name!r}", hint=nearest(name, task_names()))
    return _only_class(importlib.import_module(f"converter.tasks.{wanted}"), Task)


@cache
def families() -> "dict[str, Family]":
    """Return each family by the transformers `model_type` it is for."""
    from converter.family import Family

    found: dict[str, Family] = {}
    for name in names("converter.families"):
        family = _only_class(importlib.import_module(f"converter.families.{name}"), Family)()
        found[family.model_type] = family
    return found


def _only_class(module: "ModuleType", base: type[T]) -> type[T]:
    """Return the one concrete subclass of `base` that `module` itself defines."""
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one {base.__name__}, it defines {len(found)}")
    return found[0]
