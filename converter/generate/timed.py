"""A text in the making, for timing: latency of a dense model depends on how many tokens there are, not on which."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from converter.generate.graphs import DECODER, ENCODER
from converter.generate.steps import Steps
from converter.graphs import BATCH, ENCODER_SEQUENCE, MODEL, SEQUENCE, GraphSpec, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TimedText:
    """A made-up prompt, read as soon as this is made; then the likeliest token each time, whatever it is."""

    def __init__(self, run: Run, specs: Mapping[str, GraphSpec], batch: int, length: int) -> None:
        axis = ENCODER_SEQUENCE if DECODER in specs else SEQUENCE
        spec = specs[ENCODER if DECODER in specs else MODEL]
        ids = next(t for t in spec.inputs if t.name == "input_ids")
        prompt = GraphSpec("prompt", (ids,), ()).dummy({BATCH: batch, axis: length})["input_ids"]
        self._steps = Steps(run, specs, {"input_ids": prompt, "attention_mask": np.ones_like(prompt)})
        first = prompt if self._steps.causal else np.full((batch, 1), ids.fill, dtype=np.int64)
        self._next = self._chosen(first)

    def step(self) -> None:
        """Write one token more."""
        self._next = self._chosen(self._next)

    @property
    def cache_bytes(self) -> int:
        return self._steps.cache_bytes

    def _chosen(self, ids: "NDArray[np.int64]") -> "NDArray[np.int64]":
        made: NDArray[np.int64] = self._steps.step(ids, keep=1)[:, -1].argmax(axis=-1)[:, None]
        return made
