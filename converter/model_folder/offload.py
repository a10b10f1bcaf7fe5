"""Weights that do not fit into memory stay in their files: accelerate reads each module's while that module runs."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import place_on_disk, weight_map_of
from converter.bounds.sizes import shown_size
from converter.bounds.watch import available_memory, memory_bytes
from converter.errors import ResourceLimit
from converter.resources import release_memory, return_large_blocks

if TYPE_CHECKING:
    import torch

SHARE = 0.1
"""Of the memory that is left beside the libraries, for weights; the rest is for copies and what is computed."""


@dataclass(frozen=True)
class Placement:
    """Where the weights of a source may lie: in memory as far as there is room, then on disk."""

    folder: Path
    """For weights that the checkpoint holds in another form than the model."""
    limit: int | None = None
    """Bytes that the process may take; None: what the machine has left."""
    room: int | None = None
    """Bytes of weights that stay in memory; None: a tenth of what `limit` leaves beside the libraries."""

    def options(self) -> dict[str, Any]:
        """Return what `from_pretrained` is told. GPUs are not used: all that follows works in main memory."""
        return_large_blocks()
        free = available_memory() if self.limit is None else self.limit - memory_bytes()
        room = max(0, int(SHARE * free)) if self.room is None else self.room
        return {"device_map": "auto", "max_memory": {"cpu": room}, "offload_folder": str(self.folder)}

    def check(self, module: "torch.nn.Module") -> None:
        """Raise where not even the largest single module fits.

        Raises:
            ResourceLimit: says how much would be needed.

        """
        if self.limit is None:
            return
        largest = max(sum(p.numel() * p.element_size() for p in m.parameters(recurse=False)) for m in module.modules())
        needed = memory_bytes() + largest
        if needed > self.limit:
            raise ResourceLimit(
                f"the largest single layer needs about {shown_size(needed)} of memory with the libraries, "
                f"{shown_size(self.limit)} are allowed; nothing was made",
                hint="raise --max-memory",
            )


def offloaded_in(module: "torch.nn.Module") -> list[str]:
    """Return the names of the weights that are on disk."""
    return [name for name, tensor in module.state_dict().items() if tensor.device.type == "meta"]


@contextmanager
def held(modules: "Mapping[str, torch.nn.Module]", folder: Path | None = None) -> Iterator[None]:
    """Hold the own weights of some modules in memory, by any names, for as long as it is entered.

    `folder`: what they are at the end is written to a new file there, and read from there from then on. Modules whose
    weights are in memory anyway are left alone.
    """
    import torch
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    hooks: dict[str, Any] = {}
    for name, module in modules.items():
        own = dict(module.named_parameters(recurse=False))
        maps = {n: weight_map_of(module, n) for n, p in own.items() if p.device.type == "meta"}
        if not maps:
            continue
        hooks[name] = vars(module)["_hf_hook"]
        remove_hook_from_module(module)
        for n, (weights, stored) in maps.items():
            found = torch.nn.Parameter(weights[stored].clone(), requires_grad=own[n].requires_grad)
            module._parameters[n] = found  # noqa: SLF001 - `register_parameter` would look at the meta tensor first
    try:
        yield
    finally:
        if folder is not None and hooks:
            _written(modules, hooks, folder)
        for name, hook in hooks.items():
            add_hook_to_module(modules[name], hook)
        if hooks:
            release_memory(cycles=False)  # freed blocks of this size would stay with the process


@contextmanager
def mapped_in(module: "torch.nn.Module", folder: Path) -> Iterator[None]:
    """Have the weights that are on disk as maps of their files, for as long as it is entered: they only look whole.

    Pages that are read count as memory until `release_memory` gives them back. What a file holds in another type is
    written to `folder` in float32 first, and read from there from then on. Where all is in memory nothing is done.

    Raises:
        ResourceLimit: the disk has no room for weights that have to be written.

    """
    import torch
    from accelerate.hooks import add_hook_to_module, remove_hook_from_submodules

    names = offloaded_in(module)
    if not names:
        yield
        return
    _store_as_float32(module, names, folder)
    maps = maps_of(module)
    hooks = [(part, vars(part)["_hf_hook"]) for part in module.modules() if "_hf_hook" in vars(part)]
    slots = {name: _slot(module, name) for name in names}
    absent = {name: parameters[own] for name, (parameters, own) in slots.items()}
    remove_hook_from_submodules(module)
    try:
        made: dict[int, torch.nn.Parameter] = {}
        for name, found in maps.items():
            parameters, own = slots[name]
            one = torch.nn.Parameter(found, requires_grad=absent[name].requires_grad)
            parameters[own] = made.setdefault(id(found), one)
        del maps, made
        yield
    finally:
        # The very parameters that were there: of others a hook would read all values whenever it is taken off.
        for name, (parameters, own) in slots.items():
            parameters[own] = absent[name]
        for part, hook in hooks:
            add_hook_to_module(part, hook)
        release_memory()


def _slot(module: "torch.nn.Module", name: str) -> tuple[dict[str, Any], str]:
    """Return the table of parameters that a weight stands in, and its name there.

    Assigning an attribute, or `register_parameter`, would look at the meta tensor that is there, or make a copy.
    """
    path, _, own = name.rpartition(".")
    parameters: dict[str, Any] = module.get_submodule(path)._parameters  # noqa: SLF001 - there is no public table
    return parameters, own


def maps_of(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Return each weight that is on disk as a map of its file, as it is stored there; a tied one as one tensor."""
    from safetensors import safe_open

    places = {name: place_on_disk(module, name) for name in offloaded_in(module)}
    made: dict[tuple[str, str], torch.Tensor] = {}
    for file in dict.fromkeys(file for file, _ in places.values()):
        with safe_open(file, framework="pt") as opened:
            made |= {place: opened.get_tensor(place[1]) for place in set(places.values()) if place[0] == file}
    return {name: made[place] for name, place in places.items()}


def bytes_to_store(module: "torch.nn.Module") -> int:
    """Return the bytes of what `mapped_in` would write."""
    maps = maps_of(module)
    return sum(4 * maps[name].numel() for name in _not_float32(maps).values())


def _not_float32(maps: "Mapping[str, torch.Tensor]") -> dict[int, str]:
    """Return one name of each weight that its file holds in another type."""
    import torch

    return {id(found): name for name, found in maps.items() if found.dtype != torch.float32}


def _store_as_float32(module: "torch.nn.Module", names: "list[str]", folder: Path) -> None:
    """Write the weights that their files hold in another type, and have them read from there."""
    from converter.model_folder.mapped import write_mapped

    maps = maps_of(module)
    others = _not_float32(maps)
    if not others:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{uuid.uuid4().hex}.safetensors"
    write_mapped({name: maps[name].shape for name in others.values()}, lambda name: maps[name].float(), file)
    for name in names:
        if id(maps[name]) in others:
            weights, own = weight_map_of(module, name)
            told = {"safetensors_file": str(file), "weight_name": others[id(maps[name])], "dtype": "float32"}
            weights.dataset.index[weights.prefix + own] = told


@dataclass(frozen=True)
class _Changed:
    """The weights of one module, as accelerate asks for them while it runs: its `weight` is another one."""

    weights: Any
    change: "Callable[[torch.Tensor], torch.Tensor]"

    def __getitem__(self, name: str) -> "torch.Tensor":
        found: torch.Tensor = self.weights[name]
        return self.change(found) if name == "weight" else found


@contextmanager
def changed_when_read(changes: "Mapping[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]]") -> Iterator[None]:
    """Have the weight of modules whose weights are on disk changed whenever it is read for a call.

    A module whose weights are in memory is left alone.
    """
    found = []
    for module, change in changes.items():
        hook: Any = vars(module).get("_hf_hook")
        for one in getattr(hook, "hooks", (hook,)):
            if getattr(one, "offload", False):
                found.append((one, one.weights_map))
                one.weights_map = _Changed(one.weights_map, change)
    try:
        yield
    finally:
        for one, weights in found:
            one.weights_map = weights


def _written(modules: "Mapping[str, torch.nn.Module]", hooks: Mapping[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{n}": p.detach() for name in hooks for n, p in modules[name].named_parameters(recurse=False)}
    file = folder / f"{uuid.uuid4().hex}.safetensors"
    save_file(tensors, file)
    for name, hook in hooks.items():
        for one in getattr(hook, "hooks", (hook,)):
            for n, p in modules[name].named_parameters(recurse=False) if getattr(one, "offload", False) else ():
                told = {"safetensors_file": str(file), "weight_name": f"{name}.{n}"}
                told["dtype"] = str(p.dtype).removeprefix("torch.")
                one.weights_map.dataset.index[one.weights_map.prefix + n] = told


def bring_in(module: "torch.nn.Module") -> None:
    """Read all weights of a model into memory, for good; a tied weight once."""
    import torch
    from accelerate.hooks import remove_hook_from_submodules

    made: dict[tuple[str, str], torch.nn.Parameter] = {}
    wanted = dict(module.named_parameters(remove_duplicate=False))
    for name in offloaded_in(module):
        weights, own = weight_map_of(module, name)
        key = place_on_disk(module, name)
        if key not in made:
            made[key] = torch.nn.Parameter(weights[own].clone(), requires_grad=wanted[name].requires_grad)
        _slot(module, name)[0][own] = made[key]
    remove_hook_from_submodules(module)
