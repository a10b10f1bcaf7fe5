"""What flows into the products on real text: some tokens on disk, the extremes of every token in memory."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.forecast import MAX_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_PER_TEXT = 12
HALF_MAX = 65504.0


class Observed:
    """Tokens `[rows, width]` of named values, kept in `folder` in half precision; least and largest of all tokens.

    On disk, as the inputs of all products of a BERT-base would take the memory of the model again.
    """

    def __init__(self, folder: Path, names: Sequence[str], n_texts: int, seed: int = 0) -> None:
        self._folder, self.names = folder, tuple(names)
        self._per_text = max(LEAST_PER_TEXT, MAX_ROWS // max(1, n_texts))
        self._n_texts = n_texts
        self._random = np.random.default_rng(seed)
        self._widths: dict[str, int] = {}
        self._low: dict[str, NDArray[np.float32]] = {}
        self._high: dict[str, NDArray[np.float32]] = {}
        self._n_rows = dict.fromkeys(names, 0)
        for i in range(len(self.names)):
            self._path(i).unlink(missing_ok=True)

    def watch(self, stream: "Iterable[Mapping[str, NDArray[np.float32]]]") -> "Observed":
        """Take in a stream of texts: `[tokens, width]` by name. Returns itself.

        It may be of all texts several times, with some of the names each time.

        Raises:
            ValueError: an activation is not finite.

        """
        kept: list[dict[int, NDArray[np.int64]]] = [{} for _ in range(self._n_texts)]
        for text, values in zip(itertools.cycle(kept), stream, strict=False):
            # Nearly always one length; relative positions (DeBERTa) have a length of their own.
            for n in sorted({len(v) for v in values.values()}):
                text[n] = text[n] if n in text else self._choose(n)
            for i, name in enumerate(self.names):
                if name in values:
                    self._take(i, name, values[name], text[len(values[name])])
        return self

    def rows(self, name: str, limit: int | None = None) -> "NDArray[np.float32]":
        """Return the kept tokens of `name`, at most `limit` of them, evenly."""
        path = self._path(self.names.index(name))
        found = np.fromfile(path, dtype=np.float16) if path.is_file() else np.zeros(0, np.float16)
        rows = found.reshape(-1, self._widths[name])
        if limit is not None and len(rows) > limit:
            rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
        return rows.astype(np.float32)

    def extremes(self, name: str) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return least and largest value of every channel of `name`, over all tokens of all texts."""
        return self._low[name], self._high[name]

    def remove(self) -> None:
        """Delete what is on disk."""
        for i in range(len(self.names)):
            self._path(i).unlink(missing_ok=True)

    def _choose(self, n_tokens: int) -> "NDArray[np.int64]":
        """Return which tokens of a text are kept: first and last always, as what marks the ends is unlike the rest."""
        if n_tokens <= self._per_text:
            return np.arange(n_tokens)
        inner = self._random.choice(np.arange(1, n_tokens - 1), self._per_text - 2, replace=False)
        return np.sort(np.concatenate([[0], inner, [n_tokens - 1]]))

    def _take(self, i: int, name: str, value: "NDArray[np.float32]", kept: "NDArray[np.int64]") -> None:
        low, high = value.min(axis=0), value.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"an activation is not finite: {name}")
        if name in self._widths:
            low, high = np.minimum(low, self._low[name]), np.maximum(high, self._high[name])
        self._widths[name], self._low[name], self._high[name] = value.shape[-1], low, high
        if self._n_rows[name] >= MAX_ROWS:
            return
        self._n_rows[name] += len(kept)
        with self._path(i).open("ab") as opened:
            opened.write(np.clip(value[kept], -HALF_MAX, HALF_MAX).astype(np.float16).tobytes())

    def _path(self, i: int) -> Path:
        return self._folder / f"rows-{i}.f16"
