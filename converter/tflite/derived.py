"""Constants worked out of others: once for all graphs of a file, whatever their length."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np

from converter.tflite.file import add_buffer, add_tensor, shape_of, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tflite.schema import Graph, Model


class Derived:
    """Buffers of one model by what went into them: graphs that derive the same share it, on the disk and in memory."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._made: dict[Hashable, int] = {}

    def tensor(
        self, graph: "Graph", like: int, word: str, key: Hashable, values: "Callable[[], NDArray[np.float32]]"
    ) -> int:
        """Add a tensor beside `like`, which others may go on using; `key`: all that `values` depends on."""
        if key not in self._made:
            self._made[key] = add_buffer(self._model, values().astype(np.float32))
        given = graph.tensors[like]
        return add_tensor(graph, f"{text(given.name)}/{word}", shape_of(given), given.type, self._made[key])
