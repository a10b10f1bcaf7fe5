"""Products that int8 would spoil stay in float: few, found on calibration text, named in the record with the reason.

A product is kept at once if its own output would lose too much. Then the whole int8 file is asked beside the float one;
as long as its answers lose too much, the products with the most noise of their own go back to float: one, two, four
more. Errors add up in ways that no product shows alone, so it is the joint figure that decides; and once it is small
enough, halves of what came last are asked whether they alone would do.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample
from converter.examples import pad_batch
from converter.graphs import MODEL, SEQUENCE, TensorSpec
from converter.resources import release_memory

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from converter.onnx.model import OnnxModel
    from converter.onnx.quantize.prepare import Prepared
    from converter.onnx.rewrites.sites import Site
    from converter.stage import Context

    Write = Callable[[ir.Model, Sequence[Site]], dict[str, Any]]

ASKED = 40
"""Texts that the int8 file and the float one are both asked."""
JUMPED = 0.25
"""Of the texts of a model with early exits, those of the largest errors, which are not counted: where confidence is
near a threshold, rounding sends a text another way, and that says nothing of the products' precision."""
ALONE_SHARE = 0.4
"""A product may lose this share of what the answers may lose."""


def quantize_faithfully(
    prepared: "Prepared",
    path: "Path",
    noise: dict[str, float],
    write: "Write",
    given: "OnnxModel",
    ctx: "Context",
    max_noise: float,
) -> dict[str, Any]:
    """Write the model to `path` with as few products in float as `max_noise` allows; returns the facts.

    `noise` is what each product alone loses; `write` quantizes some products of a model, in place.
    """
    from converter.onnx.quantize.prepare import finish
    from converter.onnx.read import read_onnx
    from converter.onnx.write import write_onnx

    smoothed = prepared.folder / "smoothed.onnx"
    ranked = sorted(noise, key=lambda n: -noise[n])
    n_kept = n_alone = sum(noise[n] > max_noise * ALONE_SHARE for n in ranked)
    write_onnx(prepared.model, smoothed)
    tried: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}

    def enough(kept: Sequence[str]) -> bool:
        """Write the file with `kept` in float; returns whether its answers lose little enough (or cannot be asked)."""
        model = read_onnx(smoothed)
        facts.update(write(model, [s for s in prepared.sites_of(model) if s.node.name not in set(kept)]))
        facts["embedding_tables"] = finish(model, path)
        found = _answer_noise(given, path, ctx)
        tried.append({"kept_float": len(kept), "answer_noise": found})
        return found is None or found <= max_noise

    n_before = n_kept
    while not (passed := enough(ranked[:n_kept])) and n_kept < len(ranked):
        n_before, n_kept = n_kept, min(len(ranked), max(1, 2 * n_kept))
    kept = ranked[:n_kept]
    if passed and n_kept > n_before + 1:
        kept = _fewest(ranked[:n_alone], ranked[n_before:n_kept], kept, enough)
    return facts | {
        "kept_float": {n: round(noise[n], 6) for n in kept},
        "answer_noise": tried[-1]["answer_noise"],
        "fallback_steps": tried,
        "max_noise": max_noise,
    }


def _fewest(
    alone: Sequence[str], last: Sequence[str], kept: Sequence[str], enough: "Callable[[Sequence[str]], bool]"
) -> list[str]:
    """Return the smallest part of `last` that is enough beside `alone`, by halves; `kept` where no part is.

    The file is that of what is returned.
    """
    written, best, part = list(kept), list(kept), list(last)
    halves = [part]
    while halves:
        for half in halves:
            written = [*alone, *half]
            if enough(written):
                best, part = written, half
                break
        else:
            break
        middle = len(part) // 2
        halves = [part[:middle], part[middle:]] if middle else []
    if written != best:
        enough(best)
    return best


def _answer_noise(given: "OnnxModel", made: "Path", ctx: "Context") -> float | None:
    """Return the share of the answers' variance that int8 costs, over the worst output; None without text."""
    if not ctx.calibration:
        return None
    source = given.source
    texts = even_sample(ctx.calibration, ASKED)
    feeds = [
        pad_batch([source.task.encode(source.tokenizer, t, source.max_length)], source.specs[MODEL]) for t in texts
    ]
    answers: list[list[list[NDArray[np.float32]]]] = []
    outputs = source.specs[MODEL].outputs
    with ctx.progress.task("Comparing float and int8", total=2 * len(feeds)) as ticker:
        for path in (given.files[MODEL], made):
            answers.append([])
            for values in _answers(path, feeds, [o.name for o in outputs], pieces=source.offloaded):
                answers[-1].append([v[0] for v in values])
                ticker.advance()
            release_memory()
    sides = [[_rows(spec, [a[k] for a in side]) for side in answers] for k, spec in enumerate(outputs)]
    if source.leaves_early:
        sides = [_without_jumps(*pair) for pair in sides]
    return round(max(_share(*pair) for pair in sides), 6)


def _answers(
    path: "Path", feeds: "Sequence[dict[str, NDArray[Any]]]", names: Sequence[str], *, pieces: bool
) -> "Iterator[list[NDArray[np.float32]]]":
    """Yield the outputs `names` for each feed; `pieces`: with no more than one piece of the weights in memory."""
    from converter.onnx.pieces import Pieces
    from converter.onnx.runner import open_lean_session

    if pieces:
        made: list[dict[str, NDArray[Any]]] = [{} for _ in feeds]
        for found, values in zip(itertools.cycle(made), Pieces(path, names).passes(feeds), strict=False):
            found.update(values)
        yield from ([found[name] for name in names] for found in made)
        return
    session = open_lean_session(path)
    for feed in feeds:
        yield session.run(names, {i.name: feed[i.name] for i in session.get_inputs()})


def _without_jumps(wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> "list[NDArray[np.float32]]":
    """Leave out the texts whose answers `[texts, classes]` differ most: the gate judges those that left elsewhere."""
    errors = np.square(found - wanted).sum(axis=1)
    if not np.isfinite(errors).all():
        return [wanted, found]
    kept = np.sort(np.argsort(errors, kind="stable")[: max(1, round(len(errors) * (1 - JUMPED)))])
    return [wanted[kept], found[kept]]


def _rows(spec: TensorSpec, values: "list[NDArray[np.float32]]") -> "NDArray[np.float32]":
    """Return one row a text, or one a token of each text (start and end of an answer have a number a token)."""
    if SEQUENCE not in spec.axes:
        return np.stack(values)
    rows = np.concatenate(values)
    return rows if rows.ndim > 1 else rows[:, None]


def _share(wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> float:
    spread = np.square(wanted - wanted.mean(axis=0), dtype=np.float64).sum()
    error = np.square(found.astype(np.float64) - wanted).sum()
    return float(error / max(spread, 1e-12)) if np.isfinite(error) else float("inf")
