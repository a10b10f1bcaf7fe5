"""One file that a run can go on from: safetensors with a JSON header, written in one rename, checked when read."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import stored_tensors, untold_of

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

FORMAT = 1


class CheckpointDamaged(Exception):
    """The file cannot be gone on from; the message says why. Never shown as an error: the run starts anew."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps. The order of texts and dropout's draws follow from seed and step alone."""

    step: int
    seconds: float
    """Spent on training so far, over all runs."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """The loss and its parts, one value a step."""
    tensors: "Tensors" = field(default_factory=dict)


def digest_tensors(tensors: "Tensors") -> str:
    """Return the SHA-256 of names, shapes and bytes, in the order of names."""
    return _digest((name, tensors[name]) for name in sorted(tensors))


def digest_weights(module: "torch.nn.Module") -> str:
    """Do what `digest_tensors` does with all of a module, and with what no tensor tells; weights may be on disk."""
    return _digest(stored_tensors(module, by_name=True)) + untold_of(module)


def _digest(tensors: "Iterable[tuple[str, torch.Tensor]]") -> str:
    made = hashlib.sha256()
    for name, tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        made.update(f"{name}{array.shape}{array.dtype}".encode())
        made.update(array.data if array.ndim else array.tobytes())
    return made.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint, key: str) -> None:
    """Replace `path` in one rename, so that an interruption leaves the old one or the new one."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    header = {
        "format": FORMAT,
        "key": key,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "history": checkpoint.history,
        "sha256": digest_tensors(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"checkpoint": json.dumps(header)})
    partial.replace(path)


def load_checkpoint(path: Path, key: str, wanted: "Tensors") -> Checkpoint | None:
    """Read `path`; None where there is none.

    `wanted` tells names and shapes of the tensors.

    Raises:
        CheckpointDamaged: cut off, altered, of another run or format.

    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["checkpoint"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        _check(header, tensors, key, wanted)
        return Checkpoint(int(header["step"]), float(header["seconds"]), _history(header), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointDamaged(f"{type(error).__name__}: {error}") from None


def _check(header: Mapping[str, Any], tensors: "Tensors", key: str, wanted: "Tensors") -> None:
    if header["format"] != FORMAT or header["key"] != key:
        raise CheckpointDamaged("it belongs to another run")
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in wanted.items()}:
        raise CheckpointDamaged("it holds other tensors")
    if digest_tensors(tensors) != header["sha256"]:
        raise CheckpointDamaged("its tensors were altered")


def _history(header: Mapping[str, Any]) -> dict[str, list[float]]:
    history = {str(name): [float(v) for v in values] for name, values in header["history"].items()}
    if any(len(values) != int(header["step"]) for values in history.values()):
        raise CheckpointDamaged("its history has another length")
    return history
