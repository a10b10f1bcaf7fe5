"""What a safetensors file says it holds: read and bounded before any library allocates what it names."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.bounds.documents import parse_json
from converter.bounds.files import MEGABYTE, UnfitFileError, open_regular
from converter.errors import SourceError

MAX_HEADER = 32 * MEGABYTE
"""Of 100 000 tensors it has about 12 MB; safetensors reads up to 100 MB, which takes minutes and gigabytes."""
MAX_RANK = 8


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of one or several files."""

    names: frozenset[str] = frozenset()
    numbers: int = 0
    """Of all tensors together."""
    largest_size: int = 0
    """The largest size of any axis."""

    def __add__(self, other: "StoredTensors") -> "StoredTensors":
        return StoredTensors(
            self.names | other.names, self.numbers + other.numbers, max(self.largest_size, other.largest_size)
        )


def stored_in(files: Iterable[Path]) -> StoredTensors:
    """Read the headers of the files that a model is loaded from, ours and the library's way.

    Raises:
        SourceError: one cannot be read; names it.

    """
    return sum((_checked(file) for file in files), StoredTensors())


def _checked(file: Path) -> StoredTensors:
    from safetensors import SafetensorError, safe_open

    try:
        stored = read_stored(file)
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError, UnfitFileError) as error:
        raise SourceError(
            f"the weights cannot be read ({error})",
            where=str(file),
            hint="the file is damaged or incomplete: download it again",
        ) from None
    return stored


def read_stored(path: Path) -> StoredTensors:
    """Read the header of a safetensors file.

    Raises:
        UnfitFileError: it is none, or what it says cannot be; says why.
        OSError: it cannot be read.

    """
    with open_regular(path) as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise UnfitFileError("it is cut off, or no safetensors file")
        if length > MAX_HEADER:
            raise UnfitFileError(f"its header has {length / MEGABYTE:.0f} MB, wanted at most {MAX_HEADER // MEGABYTE}")
        table = parse_json(opened.read(length))
    if not isinstance(table, dict):
        raise UnfitFileError("its header is no table")
    table.pop("__metadata__", None)
    for name, told in table.items():
        _check(name, told, size - 8 - length)
    return StoredTensors(
        frozenset(table),
        sum(math.prod(told["shape"]) for told in table.values()),
        max((n for told in table.values() for n in told["shape"]), default=0),
    )


def _check(name: str, told: Any, n_bytes: int) -> None:
    if not isinstance(told, Mapping) or not _sizes(told.get("shape")) or not _sizes(told.get("data_offsets")):
        raise UnfitFileError(f"its header does not say the shape and place of {name!r:.80}")
    offsets = told["data_offsets"]
    if len(told["shape"]) > MAX_RANK or len(offsets) != 2 or not offsets[0] <= offsets[1] <= n_bytes:
        raise UnfitFileError(f"the place or shape of {name!r:.80} is not in the file")
    # The smallest types have four bits a number.
    if math.prod(told["shape"]) > 2 * (offsets[1] - offsets[0]):
        raise UnfitFileError(f"the shape of {name!r:.80} is larger than its place")


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
