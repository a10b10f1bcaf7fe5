"""Graphs with a cache against the PyTorch model they came from, asked without one: tight equality at every token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import StageFailed
from converter.generate.forcing import forced_pieces
from converter.generate.graphs import DECODER
from converter.generate.positions import rope_switches_at
from converter.graphs import GraphSpec, Run, runs_side_by_side
from converter.onnx.equality import MAX_ERROR, Differences
from converter.resources import made_in_threads, release_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS = (1, 7)
"""Tokens of a text, besides the longest: one and several."""
MOST_LOGITS = 1 << 22
"""Logits of one step, 16 MB: of a longer text or a larger vocabulary they are compared piece by piece, and those of the
longest piece without a cache too."""
CACHED = {"uncached": (), "token by token": (1,) * 24, "in pieces": (3, 1, 5, 40, 1, 1)}


@dataclass(frozen=True)
class _Case:
    title: str
    encoding: "dict[str, NDArray[np.int64]]"
    answer: "NDArray[np.int64] | None" = None

    @property
    def length(self) -> int:
        """Tokens that logits are given for."""
        return (self.encoding["attention_mask"] if self.answer is None else self.answer).shape[1]


_Job = tuple[int, _Case, "NDArray[np.int64] | None", "NDArray[np.float32]", tuple[int, ...]]
"""A number, a text, which of its logits are compared, those of the model, and the sizes of the pieces it is fed in."""


def check_text_graphs(model: Any, specs: Mapping[str, GraphSpec], run: Run, longest: int) -> dict[str, Any]:
    """Compare the graphs that `run` runs with `model`; `longest` is the most tokens that it takes. Returns the facts.

    Raises:
        StageFailed: logits are further off than 1e-4 of their range, or not finite; names the worst case.

    """
    differences = Differences()
    titles: list[str] = []
    at_once, turn = _tokens_at_once(specs, longest), rope_switches_at(model.config)
    cases = list(_cases(specs, longest, at_once))
    kept = [_kept(model, case.length, at_once) for case in cases]
    wanted = [plain_logits(model, c.encoding, c.answer, k) for c, k in zip(cases, kept, strict=True)]
    # What was read of the checkpoint is not needed beside the files.
    release_memory()
    jobs: list[_Job] = []
    for case, places, right in zip(cases, kept, wanted, strict=True):
        ways = _ways(case.length, at_once)
        if turn is not None and case.length > turn:
            ways = {"uncached": ()}  # the cache of a shorter text is of no use for it
        for way, steps in ways.items():
            jobs.append((len(titles), case, places, right, steps))
            titles.append(f"{case.title}, {way}")
    _compare_all(jobs, specs, run, differences)
    _, place, worst = differences.worst()
    if worst > MAX_ERROR:
        raise StageFailed(
            f"the graphs differ from PyTorch by {worst:.1e} of the range of the logits (at most {MAX_ERROR:.0e}) "
            f"for {titles[place]}",
            where=type(model).__name__,
        )
    return {"max_relative_error": worst, "cases": titles}


def _compare_all(jobs: "Sequence[_Job]", specs: Mapping[str, GraphSpec], run: Run, differences: Differences) -> None:
    one_adds = Lock()

    def compare(job: "_Job") -> None:
        number, case, places, right, steps = job
        for fed, found in forced_pieces(run, specs, case.encoding, case.answer, steps):
            pair = _pair(case, places, fed, right, found)
            with one_adds:
                differences.add("logits", number, *pair)
            del found, pair  # before the next piece is made

    for _ in made_in_threads(compare, jobs, alone=not runs_side_by_side(run), ahead=len(jobs)):
        pass


def _tokens_at_once(specs: Mapping[str, GraphSpec], longest: int) -> int:
    """Return how many tokens of one text may be fed at once, so that their logits do not fill the memory."""
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")
    return max(1, min(longest, MOST_LOGITS // (ids.draw[1] + 1)))


def _ways(length: int, at_once: int) -> Mapping[str, tuple[int, ...]]:
    """Return the sizes of the pieces that a text of `length` is fed in, by the name of the way."""
    if length > at_once:
        # Each piece finds all before it in the cache; the other ways are tried on the texts that are fed at once.
        return {f"{at_once} tokens at a time": (at_once,) * (length // at_once)}
    return CACHED


def _kept(model: Any, length: int, at_once: int) -> "NDArray[np.int64] | None":
    """Return the tokens of a long text whose logits are compared, evenly over it.

    None: all, of a text that is fed at once, or of a model that gives no others.
    """
    from converter.generate.modules import gives_chosen_logits

    step = -(-length // at_once)
    if step < 2 or not gives_chosen_logits(model):
        return None
    # The first of each piece, and the last of all: no piece is without one.
    return np.unique(np.concatenate([np.arange(0, length, step), np.arange(0, length, at_once), [length - 1]]))


def _pair(
    case: _Case,
    kept: "NDArray[np.int64] | None",
    fed: slice,
    wanted: "NDArray[np.float32]",
    found: "NDArray[np.float32]",
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Return the logits of a piece that belong to real tokens, wanted and found; other shapes stay as they are."""
    if kept is not None:
        own = (kept >= fed.start) & (kept < fed.stop)
        return wanted[:, own], found[:, kept[own] - fed.start]
    right = wanted[:, fed]
    real = case.encoding["attention_mask"][:, fed] > 0
    if case.answer is not None or real.all() or found.shape != right.shape:
        return right, found
    return right[real], found[real]


def plain_logits(
    model: Any,
    encoding: "Mapping[str, NDArray[np.int64]]",
    answer: "NDArray[np.int64] | None" = None,
    kept: "NDArray[np.int64] | None" = None,
) -> "NDArray[np.float32]":
    """Return the logits of the model's own call, without a cache: `[batch, length, vocabulary]`, or those of `kept`."""
    import torch

    from converter.generate.modules import takes_positions

    feed = {name: torch.from_numpy(rows) for name, rows in encoding.items()}
    if answer is not None:
        feed["decoder_input_ids"] = torch.from_numpy(answer)
    elif takes_positions(model):
        feed["position_ids"] = (feed["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if kept is not None:
        feed["logits_to_keep"] = torch.from_numpy(kept)
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(**feed, use_cache=False).logits.float().numpy()
    return logits


def _cases(specs: Mapping[str, GraphSpec], longest: int, at_once: int) -> Iterator[_Case]:
    random = np.random.default_rng(0)
    two = DECODER in specs
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")

    def text(rows: int, length: int) -> "NDArray[np.int64]":
        return ids.made_up_text(random, rows, length)

    for length in dict.fromkeys((*LENGTHS, at_once, longest)):
        encoding = {"input_ids": text(1, length), "attention_mask": np.ones((1, length), dtype=np.int64)}
        yield _Case(f"a text of {length}", encoding, text(1, length) if two else None)
    lengths = (9, 1, 7, 4)
    batch = {"input_ids": np.full((4, 9), ids.fill, dtype=np.int64), "attention_mask": np.zeros((4, 9), dtype=np.int64)}
    for row, length in enumerate(lengths):
        own = slice(9 - length, None) if ids.side == "left" else slice(0, length)
        batch["input_ids"][row, own], batch["attention_mask"][row, own] = text(1, length)[0], 1
    yield _Case("a padded batch", batch, text(4, 11) if two else None)
