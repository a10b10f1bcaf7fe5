"""Weights that do not fit into memory stay in their files: accelerate reads each module's while that module runs."""

import uuid
from collections.abc import Iterator, Mapping
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
        module.get_submodule(name.rpartition(".")[0])._parameters[own] = made[key]  # noqa: SLF001 - no copy is made so
    remove_hook_from_submodules(module)
