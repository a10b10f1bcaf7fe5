"""`stand_ins.json`: which modules of a saved model stand in for others, and which layers are one."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.jsonfile import read_json, write_json

if TYPE_CHECKING:
    import torch

FILE_NAME = "stand_ins.json"


@dataclass(frozen=True)
class StandIns:
    """What `converter.model_folder.replacements` puts in place before the weights load; both by module name."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, module: "torch.nn.Module") -> "StandIns":
        from converter.model_folder.replacements import stand_ins, tied_layers

        return cls(stand_ins(module), tied_layers(module))

    @property
    def is_empty(self) -> bool:
        return not self.parts and not self.ties

    def save(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, {"format": 1, "parts": self.parts, "ties": self.ties})

    @classmethod
    def load(cls, folder: Path) -> "StandIns | None":
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        table = read_json(path)
        parts: Any = table.get("parts") if isinstance(table, dict) else None
        ties: Any = table.get("ties") if isinstance(table, dict) else None
        if not _is_table(parts, dict) or not _is_table(ties, str):
            raise SourceError("the list of replaced modules is damaged", where=str(path))
        return cls(parts, ties)


def ascending(value: Any) -> list[int]:
    """Return a list of layers, counted from 0, that a file names.

    Raises:
        ValueError: it is empty or no list, or holds anything but whole numbers, each above the one before.

    """
    if not isinstance(value, list) or not value or not all(type(i) is int for i in value):
        raise ValueError(f"wanted a list of layers, found {value!r}")
    if value[0] < 0 or any(a >= b for a, b in pairwise(value)):
        raise ValueError(f"layers must be ascending from 0, found {value}")
    return value


def _is_table(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(v, kind) for v in value.values())
