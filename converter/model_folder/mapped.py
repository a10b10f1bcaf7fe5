"""Weights in float32 that a checkpoint stores shorter, kept in a file that is mapped: unused, they take no memory."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.forecast import MAPPED_FROM
from converter.resources import PagesRead, mapped_weights, release_memory, require_space

if TYPE_CHECKING:
    import torch


LEAST_BYTES = 4096
"""Of a weight: smaller ones stay where they are."""


def map_weights(module: "torch.nn.Module", path: Path, least: int | None = None) -> int:
    """Move the weights of `module` that only memory holds into `path` (.safetensors); returns how many bytes.

    A checkpoint in float32 is mapped when it is loaded, one in bfloat16 becomes twice as large in memory, and stays
    there. From the file `release_memory` gives the pages back that were read, as it does with any checkpoint. Weights
    keep their values and their objects. Nothing is done for fewer than `least` bytes (None: `MAPPED_FROM`), nor
    where the system cannot say what is mapped.

    Raises:
        ResourceLimit: the disk has no room for them.

    """
    found = dict(_unmapped(module))
    size = sum(t.nbytes for t in found.values())
    if size < (MAPPED_FROM if least is None else least) or sys.platform != "linux":
        return 0
    _write_mapped(found, path)
    release_memory()
    return size


def bytes_held(module: "torch.nn.Module") -> int:
    """Return the bytes of weights that only memory holds: not those of a file, which the system takes back."""
    return sum(t.nbytes for _, t in _unmapped(module))


def bytes_to_map(module: "torch.nn.Module") -> int:
    """Return the bytes of the file that `map_weights` would write."""
    held = bytes_held(module)
    return held if held >= MAPPED_FROM and sys.platform == "linux" else 0


def _unmapped(module: "torch.nn.Module") -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the weights that lie in no mapped file, by name; one of several names once."""
    import torch

    places = [(start, start + length) for start, length in mapped_weights()]
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype == torch.float32 and tensor.nbytes >= LEAST_BYTES and tensor.is_contiguous():
            at = tensor.data_ptr()
            if not any(start <= at < end for start, end in places):
                yield name, tensor


def _write_mapped(found: "dict[str, torch.Tensor]", path: Path) -> None:
    made = write_mapped({name: t.shape for name, t in found.items()}, found.__getitem__, path)
    for name, tensor in found.items():
        tensor.data = made[name]


def write_mapped(
    shapes: "Mapping[str, Sequence[int]]", read: "Callable[[str], torch.Tensor]", path: Path
) -> "dict[str, torch.Tensor]":
    """Write float32 tensors of these shapes, read one by one, to `path` (.safetensors); returns them as maps of it.

    Raises:
        ResourceLimit: the disk has no room for them.

    """
    import torch

    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    require_space(path.parent, end)
    head = json.dumps(header).encode()
    head += b" " * (-(len(head) + 8) % 64)
    pages = PagesRead()
    try:
        with path.open("wb") as opened:
            opened.write(len(head).to_bytes(8, "little") + head)
            for name in shapes:
                tensor = read(name)
                opened.write(tensor.detach().contiguous().numpy().reshape(-1).view("uint8").data)
                pages.add(tensor.nbytes)
    except BaseException:
        path.unlink(missing_ok=True)  # whatever else the run makes needs the room
        raise
    whole = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    made = {}
    for name, shape in shapes.items():
        start, stop = (8 + len(head) + n for n in header[name]["data_offsets"])
        made[name] = whole[start:stop].view(torch.float32).view(tuple(shape))
    return made
