"""What trials of one process work out alike and keep for each other, within a bound of memory."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

MOST_BYTES = 1_000_000_000
"""Of all that one process keeps."""


class Shared(MutableMapping[str, Any]):
    """Keeps what was used last: the oldest goes where there is no room; what is larger than all room is not kept."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def __getitem__(self, key: str) -> Any:
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._kept:
            del self[key]
        size = bytes_of(value)
        if size > self._most:
            return
        self._kept[key] = value, size
        self._held += size
        while self._held > self._most:
            _, (_, gone) = self._kept.popitem(last=False)
            self._held -= gone

    def __delitem__(self, key: str) -> None:
        self._held -= self._kept.pop(key)[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def held_bytes(self) -> int:
        return self._held


def bytes_of(value: Any) -> int:
    """Return the bytes of all arrays and tensors in a value; what is beside them counts as nothing."""
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, (tuple, list)):
        return sum(map(bytes_of, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(bytes_of(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 0
