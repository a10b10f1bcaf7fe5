"""Graphs with a cache against the PyTorch model they came from, asked without one: tight equality at every token."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.generate.forcing import forced_logits
from converter.generate.graphs import DECODER
from converter.graphs import GraphSpec, Run
from converter.onnx.equality import MAX_ERROR, Differences

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS = (1, 7)
"""Tokens of a text, besides the longest: one and several."""
CACHED = {"uncached": (), "token by token": (1,) * 64, "in pieces": (3, 1, 5)}


@dataclass(frozen=True)
class _Case:
    title: str
    encoding: "dict[str, NDArray[np.int64]]"
    answer: "NDArray[np.int64] | None" = None


def check_text_graphs(model: Any, specs: Mapping[str, GraphSpec], run: Run, longest: int) -> dict[str, Any]:
    """Compare the graphs that `run` runs with `model`; `longest` is the most tokens that it takes. Returns the facts.

    Raises:
        StageFailed: logits are further off than 1e-4 of their range, or not finite; names the worst case.

    """
    differences = Differences()
    titles: list[str] = []
    for case in _cases(specs, longest):
        wanted = plain_logits(model, case.encoding, case.answer)
        real = np.ones(wanted.shape[:2], dtype=bool) if case.answer is not None else case.encoding["attention_mask"] > 0
        for way, steps in CACHED.items():
            found = forced_logits(run, specs, case.encoding, case.answer, steps)
            same = found.shape == wanted.shape
            differences.add("logits", len(titles), wanted[real], found[real] if same else found)
            titles.append(f"{case.title}, {way}")
    _, place, worst = differences.worst()
    if worst > MAX_ERROR:
        raise StageFailed(
            f"the graphs differ from PyTorch by {worst:.1e} of the range of the logits (at most {MAX_ERROR:.0e}) "
            f"for {titles[place]}",
            where=type(model).__name__,
        )
    return {"max_relative_error": worst, "cases": titles}


def plain_logits(
    model: Any, encoding: "Mapping[str, NDArray[np.int64]]", answer: "NDArray[np.int64] | None" = None
) -> "NDArray[np.float32]":
    """Return the logits of the model's own call, without a cache: `[batch, length, vocabulary]`."""
    import torch

    from converter.generate.modules import takes_positions

    feed = {name: torch.from_numpy(rows) for name, rows in encoding.items()}
    if answer is not None:
        feed["decoder_input_ids"] = torch.from_numpy(answer)
    elif takes_positions(model):
        feed["position_ids"] = (feed["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(**feed, use_cache=False).logits.float().numpy()
    return logits


def _cases(specs: Mapping[str, GraphSpec], longest: int) -> Iterator[_Case]:
    random = np.random.default_rng(0)
    two = DECODER in specs
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    low, high = ids.draw

    def text(rows: int, length: int) -> "NDArray[np.int64]":
        return random.integers(low, high, (rows, length), endpoint=True)

    for length in (*LENGTHS, longest):
        encoding = {"input_ids": text(1, length), "attention_mask": np.ones((1, length), dtype=np.int64)}
        yield _Case(f"a text of {length}", encoding, text(1, length) if two else None)
    lengths = (9, 1, 7, 4)
    batch = {"input_ids": np.full((4, 9), ids.fill, dtype=np.int64), "attention_mask": np.zeros((4, 9), dtype=np.int64)}
    for row, length in enumerate(lengths):
        own = slice(9 - length, None) if ids.side == "left" else slice(0, length)
        batch["input_ids"][row, own], batch["attention_mask"][row, own] = text(1, length)[0], 1
    yield _Case("a padded batch", batch, text(4, 11) if two else None)
