"""What structured pruning has left of a model, as data: saved beside the weights, applied before they load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.jsonfile import read_json, write_json

FILE_NAME = "shape_map.json"


@dataclass(frozen=True)
class LayerShape:
    """Kept attention heads and FFN neurons of one layer, as indices into the *original* model, ascending."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]


@dataclass(frozen=True)
class ShapeMap:
    """One shape for each remaining layer, in order; `layers_kept` are these layers' indices in the original model.

    Where all layers are one (ALBERT) there is one shape, and `layers_kept` counts the passes.

    transformers 5 has neither head pruning nor `pruned_heads`, so a pruned folder carries this file and the loader of
    this project (`source.py`) reads it.
    """

    layers: tuple[LayerShape, ...]
    layers_kept: tuple[int, ...]

    def save(self, folder: Path) -> None:
        write_json(
            folder / FILE_NAME,
            {
                "format": 1,
                "layers_kept": list(self.layers_kept),
                "layers": [{"heads": list(s.heads), "neurons": list(s.neurons)} for s in self.layers],
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "ShapeMap | None":
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        table: dict[str, Any] = read_json(path)
        try:
            layers = tuple(
                LayerShape(tuple(map(int, s["heads"])), tuple(map(int, s["neurons"]))) for s in table["layers"]
            )
            return cls(layers, tuple(map(int, table["layers_kept"])))
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the shape map is damaged ({error!r})", where=str(path)) from None
