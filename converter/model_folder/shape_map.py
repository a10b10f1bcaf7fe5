"""What structured pruning has left of a model, as data: saved beside the weights, applied before they load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.jsonfile import read_json, write_json

FILE_NAME = "shape_map.json"
UNITS = ("heads", "neurons", "cross")


@dataclass(frozen=True)
class LayerShape:
    """Kept attention heads and FFN neurons of one layer, as indices into the *original* model, ascending."""

    heads: tuple[int, ...]
    """Of models whose query heads share keys and values: the groups that share one."""
    neurons: tuple[int, ...]
    cross: tuple[int, ...] = ()
    """Heads of the attention to an encoder, of a decoder's layer that can lose some."""

    def table(self) -> dict[str, list[int]]:
        """Return what stands in the file."""
        made = {"heads": list(self.heads), "neurons": list(self.neurons)}
        return made | ({"cross": list(self.cross)} if self.cross else {})


@dataclass(frozen=True)
class ShapeMap:
    """One shape for each remaining layer, in order; `layers_kept` are these layers' indices in the original model.

    Where all layers are one (ALBERT) there is one shape, and `layers_kept` counts the passes. Layers of a decoder are
    counted on from those of its encoder.

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
                "layers": [shape.table() for shape in self.layers],
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
                LayerShape(*(tuple(map(int, s.get(k, ()) if k == "cross" else s[k])) for k in UNITS))
                for s in table["layers"]
            )
            return cls(layers, tuple(map(int, table["layers_kept"])))
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the shape map is damaged ({error!r})", where=str(path)) from None
