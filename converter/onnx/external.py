"""Weights beside an ONNX file, for models that one file cannot hold: under the names that clients look for."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from converter.errors import StageFailed
from converter.resources import PagesRead

if TYPE_CHECKING:
    import onnx_ir as ir

SUFFIX = "_data"
"""`model.onnx` has its weights in `model.onnx_data`, `model.onnx_data_1` …: transformers.js knows no other names."""
INLINE_BYTES = 1024
"""Smaller weights stay in the file: shapes are worked out by them."""
ALIGNED = 4096
"""Offsets are multiples of it, so that the runtime can map the file."""


def data_name(file: str, part: int) -> str:
    return f"{file}{SUFFIX}" + (f"_{part}" if part else "")


def data_files(path: Path) -> list[Path]:
    """Return the files that hold the weights of the ONNX file `path`; none where it has them inside."""
    made: list[Path] = []
    while (found := path.with_name(data_name(path.name, len(made)))).is_file():
        made.append(found)
    return made


def remove_onnx(path: Path) -> None:
    """Remove an ONNX file, and its weights with it; one that is not there is none."""
    for one in (*data_files(path), path):
        one.unlink(missing_ok=True)


def stored_bytes(path: Path) -> int:
    """Return the bytes of an ONNX file and of the weights that lie beside it."""
    return sum(part.stat().st_size for part in (path, *data_files(path)))


def write_beside(proto: Any, weights: "Sequence[ir.Value]", path: Path, most: int) -> None:
    """Write `proto`, a model without its weights, to `path`, and them beside it: at most `most` bytes a file.

    The same model gives the same bytes. A file of more than `most` bytes is one with a single weight.
    """
    import onnx

    part, pages = -1, PagesRead()
    opened: BinaryIO | None = None
    try:
        for value in weights:
            tensor = value.const_value
            assert tensor is not None
            header = proto.graph.initializer.add(
                name=value.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy()
            )
            data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
            if tensor.nbytes < INLINE_BYTES:
                header.raw_data = bytes(data)
                continue
            if opened is None or _aligned(opened.tell()) + tensor.nbytes > most:
                if opened is not None:
                    opened.close()
                part += 1
                opened = path.with_name(data_name(path.name, part)).open("wb")
            opened.write(bytes(_aligned(opened.tell()) - opened.tell()))
            header.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": data_name(path.name, part), "offset": opened.tell(), "length": tensor.nbytes}
            for key, number in place.items():
                header.external_data.add(key=key, value=str(number))
            opened.write(data)
            pages.add(tensor.nbytes)
    finally:
        if opened is not None:
            opened.close()
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNED) * ALIGNED


def place_of(header: Any, path: Path) -> tuple[Path, int, int]:
    """Return the file of a weight that lies beside `path`, its offset and its length.

    Raises:
        StageFailed: the file names none, or one that is not its own.

    """
    table = {entry.key: entry.value for entry in header.external_data}
    own = {part.name: part for part in data_files(path)}
    if table.get("location") not in own:
        raise StageFailed(f"the weight {header.name} lies in {table.get('location')!r}", where=str(path))
    try:
        return own[table["location"]], int(table.get("offset", 0)), int(table["length"])
    except (KeyError, ValueError):
        raise StageFailed(f"nothing says where the weight {header.name} lies", where=str(path)) from None


def copy_onnx(path: Path, to: Path) -> None:
    """Copy an ONNX file, and its weights with it under the new name."""
    parts = data_files(path)
    if not parts:
        shutil.copyfile(path, to)
        return
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    names = {old.name: data_name(to.name, i) for i, old in enumerate(parts)}
    for header in proto.graph.initializer:
        for entry in header.external_data:
            if entry.key == "location":
                entry.value = names[entry.value]
    to.write_bytes(proto.SerializeToString(deterministic=True))
    for old in parts:
        shutil.copyfile(old, to.with_name(names[old.name]))


def data_counts(files: Mapping[str, Path]) -> dict[str, int]:
    """Return how many files of weights lie beside each ONNX file, by its name: what transformers.js is told."""
    return {path.name: n for path in files.values() if (n := len(data_files(path)))}
