"""Graphs with a cache against the PyTorch model they came from, asked without one: tight equality at every token."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.generate.forcing import forced_pieces
from converter.generate.graphs import DECODER
from converter.graphs import GraphSpec, Run
from converter.onnx.equality import MAX_ERROR, Differences

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS = (1, 7)
"""Tokens of a text, besides the longest: one and several."""
MOST_LOGITS = 1 << 22
"""Logits of one step, 16 MB: of a longer text or a larger vocabulary they are compared piece by piece, and those of the
longest piece without a cache too."""
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
    at_once = _tokens_at_once(specs, longest)
    for case in _cases(specs, longest, at_once):
        wanted = plain_logits(model, case.encoding, case.answer)
        real = np.ones(wanted.shape[:2], dtype=bool) if case.answer is not None else case.encoding["attention_mask"] > 0
        for way, steps in _ways(wanted.shape[1], at_once).items():
            for fed, found in forced_pieces(run, specs, case.encoding, case.answer, steps):
                differences.add("logits", len(titles), *_real(wanted[:, fed], found, real[:, fed]))
                del found  # before the next piece is made
            titles.append(f"{case.title}, {way}")
        del wanted  # before those of the next case are made
    _, place, worst = differences.worst()
    if worst > MAX_ERROR:
        raise StageFailed(
            f"the graphs differ from PyTorch by {worst:.1e} of the range of the logits (at most {MAX_ERROR:.0e}) "
            f"for {titles[place]}",
            where=type(model).__name__,
        )
    return {"max_relative_error": worst, "cases": titles}


def _tokens_at_once(specs: Mapping[str, GraphSpec], longest: int) -> int:
    """Return how many tokens of one text may be fed at once, so that their logits do not fill the memory."""
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    return max(1, min(longest, MOST_LOGITS // (ids.draw[1] + 1)))


def _ways(length: int, at_once: int) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the pieces that a text of `length` is fed in, by the name of the way."""
    made = {}
    for way, steps in CACHED.items():
        rest = (length - sum(steps)) // at_once if length > at_once else 0
        made[way if steps or not rest else f"{at_once} tokens at a time"] = (*steps, *[at_once] * rest)
    return made


def _real(
    wanted: "NDArray[np.float32]", found: "NDArray[np.float32]", real: "NDArray[np.bool_]"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Return what belongs to real tokens, copied only where there is padding; other shapes stay as they are."""
    if real.all() or found.shape != wanted.shape:
        return wanted, found
    return wanted[real], found[real]


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


def _cases(specs: Mapping[str, GraphSpec], longest: int, at_once: int) -> Iterator[_Case]:
    random = np.random.default_rng(0)
    two = DECODER in specs
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    low, high = ids.draw

    def text(rows: int, length: int) -> "NDArray[np.int64]":
        return random.integers(low, high, (rows, length), endpoint=True)

    for length in dict.fromkeys((*LENGTHS, at_once, longest)):
        encoding = {"input_ids": text(1, length), "attention_mask": np.ones((1, length), dtype=np.int64)}
        yield _Case(f"a text of {length}", encoding, text(1, length) if two else None)
    lengths = (9, 1, 7, 4)
    batch = {"input_ids": np.full((4, 9), ids.fill, dtype=np.int64), "attention_mask": np.zeros((4, 9), dtype=np.int64)}
    for row, length in enumerate(lengths):
        own = slice(9 - length, None) if ids.side == "left" else slice(0, length)
        batch["input_ids"][row, own], batch["attention_mask"][row, own] = text(1, length)[0], 1
    yield _Case("a padded batch", batch, text(4, 11) if two else None)
