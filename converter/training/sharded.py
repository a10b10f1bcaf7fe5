"""A teacher whose weights are spread over the processes of a launch: FSDP (arXiv 2304.11277), for its answers alone.

Each process holds a part of every matrix; a layer is gathered from all of them while it runs. The student is whole in
each process: what is pruned, saved and gone on with are its weights as they are.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from converter.artifact import TorchModel

USED = "ACCELERATE_USE_FSDP"
OFFLOADS = "FSDP_OFFLOAD_PARAMS"
"""What `accelerate launch --use_fsdp` leaves in the environment."""


def asked_for(setting: str = USED) -> bool:
    """Tell whether the launch is to shard by FSDP; `setting`: whether it was told that."""
    return os.environ.get(setting, "false").lower() == "true"


@contextmanager
def student_whole() -> Iterator[None]:
    """Let accelerate, made within, leave the student whole: on GPUs it would shard it, on CPUs it shards nothing."""
    before = os.environ.pop(USED, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[USED] = before


def sharded(model: "TorchModel", device: torch.device) -> "TorchModel":
    """Return a copy of which this process holds its part; all must run it together, the same number of times."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = copy.deepcopy(model.module)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in (*_layers_of(module), module):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return replace(model, module=module.eval())


def _layers_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return what is gathered at once: the members of lists of layers, the outermost ones."""
    lists = [m for m in module.modules() if isinstance(m, torch.nn.ModuleList)]
    inner = {id(m) for one in lists for child in one for m in child.modules() if m is not child}
    members = [child for one in lists if id(one) not in inner for child in one]
    return [m for m in dict.fromkeys(members) if any(True for _ in m.parameters())]
