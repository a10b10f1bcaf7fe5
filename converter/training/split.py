"""A teacher split over the processes of a launch: each holds some heads and neurons of every layer.

What attention and the feed-forward network put out is a sum over heads and neurons, so each process works out its part
of the sum and all add them up (tensor parallelism, arXiv 1909.08053). The cut is the one of structured pruning.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from converter.errors import UsageError
from converter.model_folder.shape_map import LayerShape
from converter.surgery.resize import family_of
from converter.training.sharded import OFFLOADS, asked_for, sharded

if TYPE_CHECKING:
    from accelerate import Accelerator

    from converter.artifact import TorchModel
    from converter.training.objective import DistillationObjective
    from converter.training.options import TrainingOptions


SHARDING = ("DEEPSPEED", "MEGATRON_LM")
"""What else than FSDP `accelerate launch` can be told to shard a model by, as its environment variables call it."""


def refuse_sharding(teacher: "TorchModel | None") -> None:
    """Every process holds the whole student: what `accelerate launch` was told otherwise would be ignored, or fail."""
    for name in SHARDING:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UsageError(
                f"training is not sharded by {name}: every process holds the whole student",
                where="accelerate launch",
                hint="launch with --multi_gpu (or torchrun); --use_fsdp shards the teacher",
            )
    if asked_for() and asked_for(OFFLOADS):
        raise UsageError(
            "parts of a teacher that is sharded by FSDP stay on their devices",
            where="accelerate launch",
            hint="launch with --fsdp_offload_params false",
        )
    if asked_for() and (teacher is None or teacher.offloaded):
        why = "there is none" if teacher is None else "its weights are on disk"
        raise UsageError(
            f"FSDP shards the teacher alone, and {why}: every process holds the whole student",
            where="accelerate launch",
            hint="launch with --multi_gpu (or torchrun), without --use_fsdp",
        )


def in_parts(options: "TrainingOptions", accelerator: "Accelerator") -> bool:
    """Tell whether each process holds a part of the teacher alone: then all answer together, once, before training."""
    return accelerator.num_processes > 1 and (options.split_teacher or asked_for())


def part_of(
    teacher: "TorchModel", objective: "DistillationObjective", options: "TrainingOptions", accelerator: "Accelerator"
) -> "TorchModel":
    """Return what this process holds of the teacher: all of it, unless it is split or sharded."""
    if not in_parts(options, accelerator):
        return teacher
    if teacher.cache is not None:
        raise UsageError(
            "a model that writes text is asked anew for every batch, and one that is in parts answers once for all",
            where="accelerate launch" if not options.split_teacher else "split_teacher",
            hint="launch without --use_fsdp and leave split_teacher out",
        )
    if not options.split_teacher:
        return sharded(teacher, accelerator.device)
    if objective.relations is not None:
        raise UsageError(
            "attention relations are learned from all heads of a layer, and a split teacher has some in each process",
            where="split_teacher",
            hint="leave split_teacher out, or set relation_weight=0",
        )
    return split_over(teacher, accelerator.process_index, accelerator.num_processes)


def split_over(model: "TorchModel", rank: int, size: int) -> "TorchModel":
    """Return the part of `model` that process `rank` of `size` holds; all must run it on the same texts together.

    Raises:
        SourceError: there is no family file for this architecture.
        UsageError: a layer has fewer heads or neurons than there are processes.

    """
    if model.offloaded:
        raise UsageError(
            "the teacher's weights are on disk, and to split it all are read",
            where="split_teacher",
            hint="leave split_teacher or --device-map out",
        )
    family, module = family_of(model), copy.deepcopy(model.module)
    shapes = [(part.n_heads, part.n_neurons) for part in family.layers(module)]
    if min(min(shape) for shape in shapes) < size:
        raise UsageError(
            f"a layer of the teacher has fewer heads or neurons than there are processes ({size})",
            where="split_teacher",
            hint="leave split_teacher out, or start fewer processes",
        )
    for index, (heads, neurons) in enumerate(shapes):
        family.resize_layer(module, index, LayerShape(_share(heads, rank, size), _share(neurons, rank, size)))
    for part in family.layers(module):
        for linear in (part.attention_output, part.ffn_output):
            if rank and linear.bias is not None:  # it counts once in the sum
                linear.bias = torch.nn.Parameter(torch.zeros_like(linear.bias), requires_grad=False)
            linear.register_forward_hook(_summed())
    return replace(model, module=module)


def _share(n: int, rank: int, size: int) -> tuple[int, ...]:
    return tuple(range(rank * n // size, (rank + 1) * n // size))


def _summed() -> Callable[..., Any]:
    def hook(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        whole = output.contiguous()
        torch.distributed.all_reduce(whole)
        return whole

    return hook
