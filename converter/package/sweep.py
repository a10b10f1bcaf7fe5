"""Words, positions, lengths and kinds of batch in a few calls: what a package gave when it was sealed.

Golden texts are few and speak of what people write. A sweep is made of token ids alone, evenly chosen from the whole
vocabulary, so that no signature, no position and no second text of a batch is without a recorded answer; the rows of
words that it leaves out are held by `stored_sums`. Of each output a handful of sums with fixed random
weights is kept: any change shows in them, and they weigh nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged
from converter.graphs import MODEL, GraphSpec
from converter.resources import made_in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.target import Runner

MOST_TOKENS = 1024
"""Token ids that are swept at most; of a larger vocabulary, an even choice."""
MOST_UNHELD = 32_768
"""The same where the rows of words are held by nothing else: a table that is spelled by a codebook has no rows."""
USUAL_LENGTH, LONGEST = 128, 1024
ROWS = 2
"""Texts of a batch, where the file takes several."""
SUMS = 4
HEAD = "sweep."
SPECIAL = 2
"""Positions kept for the first and the last token of a text."""


@dataclass(frozen=True)
class Sweep:
    """Calls, each `[rows, length]` ids and lengths of the rows, and the sums of what came out."""

    calls: tuple[dict[str, "NDArray[np.int64]"], ...]
    sums: tuple[dict[str, "NDArray[np.float32]"], ...]


NOTHING = Sweep((), ())


def record_sweep(
    spec: GraphSpec,
    runner: "Runner",
    ids: "Sequence[int]",
    ends: tuple[int, int],
    longest: int,
    types: int,
    most: int = MOST_TOKENS,
) -> Sweep:
    """Call the package on `most` of `ids`; `ends` are the first and last token of a text, `types` the token types."""
    calls = tuple(_calls(spec, runner, np.asarray(ids, dtype=np.int64), ends, longest, types, most))
    made = made_in_threads(lambda call: _sums(runner.run(MODEL, call)), calls, alone=not runner.side_by_side)
    return Sweep(calls, tuple(made))


def replay_sweep(sweep: Sweep, runner: "Runner", tolerance: float) -> float:
    """Call the package again; returns the largest change, over the size of what was recorded.

    Raises:
        PackageDamaged: a change exceeds `tolerance`.

    """
    worst = 0.0
    for i, (call, wanted) in enumerate(zip(sweep.calls, sweep.sums, strict=True)):
        found = _sums(runner.run(MODEL, call))
        for name, before in wanted.items():
            if name not in found or found[name].shape != before.shape:
                raise PackageDamaged(f"the output {name} is not the one that was recorded")
            size = max(float(np.abs(before).max()), 1e-6)
            change = float(np.abs(found[name] - before).max()) / size
            if not change <= tolerance:
                rows, length = call["input_ids"].shape
                raise PackageDamaged(
                    f"{name} differs by {change:.3g} of its size in call {i + 1} of {len(sweep.calls)} over the whole "
                    f"vocabulary ({rows} x {length} tokens); at most {tolerance:.3g} wanted",
                    hint="the model is another one, or the runtime computes different results",
                )
            worst = max(worst, change)
    return worst


def sweep_tensors(sweep: Sweep) -> "dict[str, NDArray[Any]]":
    """Return what `read_sweep` reads, by name."""
    made: dict[str, NDArray[Any]] = {}
    for i, (call, sums) in enumerate(zip(sweep.calls, sweep.sums, strict=True)):
        made |= {f"{HEAD}{i:04d}.ids.{n}": np.ascontiguousarray(v.astype(np.int32)) for n, v in call.items()}
        made |= {f"{HEAD}{i:04d}.sums.{n}": np.ascontiguousarray(v) for n, v in sums.items()}
    return made


def read_sweep(tensors: "Mapping[str, NDArray[Any]]") -> Sweep:
    """Read a sweep; one of no calls where there is none."""
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith(HEAD)})
    calls, sums = [], []
    for number in numbers:
        ids, made = f"{HEAD}{number}.ids.", f"{HEAD}{number}.sums."
        calls.append({n.removeprefix(ids): v.astype(np.int64) for n, v in tensors.items() if n.startswith(ids)})
        sums.append({n.removeprefix(made): v for n, v in tensors.items() if n.startswith(made)})
    return Sweep(tuple(calls), tuple(sums))


def _calls(
    spec: GraphSpec,
    runner: "Runner",
    ids: "NDArray[np.int64]",
    ends: tuple[int, int],
    longest: int,
    types: int,
    most: int,
) -> "Iterator[dict[str, NDArray[np.int64]]]":
    """Yield calls until every id was in one: of each length, alone and in batches, some of them padded."""
    random = np.random.default_rng(0)
    kept = ids if len(ids) <= most else ids[np.linspace(0, len(ids) - 1, most).astype(int)]
    waiting = random.permutation(kept)
    longest = min(longest, LONGEST)
    lengths = [n for n in runner.lengths if SPECIAL < n <= longest] or [longest]
    usual = min(USUAL_LENGTH, longest)
    batch = min(ROWS, runner.max_batch or ROWS)
    plan = [(1, n) for n in sorted(lengths, reverse=True)] + ([(batch, usual)] if batch > 1 else [])
    at = number = 0
    while at < len(waiting) or number < len(plan):
        rows, length = plan[number] if number < len(plan) else (batch, usual)
        room = (length - SPECIAL) * rows
        part = np.resize(waiting[at : at + room] if at < len(waiting) else waiting, room)
        yield _call(spec, part.reshape(rows, length - SPECIAL), ends, types)
        at, number = at + room, number + 1
    if batch > 1:
        part = np.resize(waiting, (batch, usual - SPECIAL))
        yield _with_padding(spec, _call(spec, part, ends, types))


def _call(
    spec: GraphSpec, ids: "NDArray[np.int64]", ends: tuple[int, int], types: int
) -> "dict[str, NDArray[np.int64]]":
    rows, width = ids.shape
    made = {"input_ids": np.concatenate([np.full((rows, 1), ends[0]), ids, np.full((rows, 1), ends[1])], axis=1)}
    made["attention_mask"] = np.ones((rows, width + SPECIAL), dtype=np.int64)
    made["token_type_ids"] = np.zeros((rows, width + SPECIAL), dtype=np.int64)
    if types > 1:
        made["token_type_ids"][:, width // 2 :] = 1
    return {n: made[n] for n in spec.input_names}


def _with_padding(spec: GraphSpec, call: "dict[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.int64]]":
    """Let each text of a batch be shorter than the one before it."""
    for tensor in spec.inputs:
        rows = call[tensor.name]
        for row in range(1, len(rows)):
            rows[row, rows.shape[1] - row * rows.shape[1] // (len(rows) + 1) :] = tensor.fill
    return call


def _sums(outputs: "Mapping[str, NDArray[np.float32]]") -> "dict[str, NDArray[np.float32]]":
    """Return `[rows, SUMS]` of each output, what the graph makes of padding included."""
    made = {}
    for name, value in sorted(outputs.items()):
        rows = value.astype(np.float64) @ _weights(value.shape[-1])
        while rows.ndim > 2:
            rows = np.einsum("...ls,l->...s", rows, _weights(rows.shape[-2])[:, 0])
        made[name] = rows.astype(np.float32)
    return made


def _weights(size: int) -> "NDArray[np.float64]":
    return np.random.default_rng(size).standard_normal((size, SUMS)) / np.sqrt(size)
