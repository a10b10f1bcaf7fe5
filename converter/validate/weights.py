"""The weights of a shipped file, brought back to float, beside those of the model that it was made of.

What texts cannot show is seen here: the row of a word that no text has, two heads exchanged, one channel ten times as
large. Nothing is asked of names or of the graph, so that rewrites may merge, turn and rescale as they like.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from converter.reference import Probe, run_probe, torch_run
from converter.resources import LARGE_BYTES, PagesRead, made_in_threads, release_memory
from converter.validate.checks import Check, Status
from converter.validate.factors import Stray, strays
from converter.validate.gains import divisors, lost_gains
from converter.validate.own_weights import OwnWeights, modules_of, own_weights
from converter.validate.stored import Stored, as_float32, digest_of
from converter.validate.tables import TableFound, compared_rows, likely_tables, wrong_copies
from converter.validate.vectors import Lost, lost_vectors
from converter.validate.weights_match import BYTE, Block, Known, Matched, known, match_product

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.artifact import TorchModel

TABLES, WEIGHTS = "embedding tables", "weights"
LIMIT = 6.0
"""Times what rounding explains that a column may be off: rounding that spreads its errors, and bounds for old CPUs,
make up to 3 of it."""
SHOWN = 5


class Compared(NamedTuple):
    """What came of comparing weights."""

    checks: list[Check]
    facts: dict[str, Any]
    own: OwnWeights | None = None
    """Of a file in fewer than 8 bits, all of whose matrices are in blocks."""


@dataclass(frozen=True)
class Parts:
    """What one text passes through of a model, by name: tables, matrices `[in, out]`, gains of normalizations.

    Tables and matrices in the type in which they are stored, see `parts_of`.
    """

    tables: "Mapping[str, NDArray[Any]]" = field(default_factory=dict)
    products: "Mapping[str, NDArray[Any]]" = field(default_factory=dict)
    gains: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)


def check_weights(
    model: "TorchModel",
    stored: Iterable[Stored],
    parts: Parts,
    before: Iterable[Stored] = (),
    seen: "dict[bytes, tuple[list[Block], int]] | None" = None,
    *,
    left_alone: bool = False,
) -> Compared:
    """Compare all that a file stores with `model`, which it was made of; returns two checks, if any, and the facts.

    `before` is what the float file stores that it was made of: its biases must be there. `parts` are those of the
    model that are used at all, see `parts_of`. What is stored is looked at one by one: brought back to float, all of it
    would be the model once more. No check where the target does not tell its weights. `seen` is what matrices of
    another file were found to be, by their digest: a package may ship the same ones twice. `left_alone`: the precision
    changes no vector.
    """
    seen = {} if seen is None else seen
    tables, products, gains = parts.tables, parts.products, parts.gains
    large = model.size_bytes > LARGE_BYTES
    found = _found(
        _read_apart(stored) if large else stored, tables, products, seen, keep=not large, alone=model.offloaded
    )
    matched = found.matched
    if not (tables or products or gains) or not (found.copies or matched.blocks or matched.unknown or found.vectors):
        return Compared([], {})
    chosen = list(likely_tables(found.copies, tables))
    chosen += [one for one in wrong_copies(found.copies, tables) if one not in chosen]
    stray = list(strays(matched.blocks, found.vectors, list(gains.values())))
    left = left_alone or found.in_blocks
    float_vectors = [s for s in before if s.kind == "vector"]
    known_before = [s.values for s in float_vectors]
    lost_ones = [
        *lost_vectors(
            found.vectors,
            float_vectors,
            left_alone=left,
            factors=() if left_alone else _factors(matched.blocks),
        ),
        *lost_gains(gains, found.vectors, matched.blocks, known_before, left_alone=left),
    ]
    facts = {
        "tables": {f.source: f.rows for f in chosen},
        "matrices": len({b.source for b in matched.blocks}),
        "of_matrices": len(products),
        "unknown_columns": sum(n for _, n in matched.unknown),
        "bits": found.bits,
        "in_blocks": found.in_blocks,
    }
    checks = [_tables_check(model, chosen), _products_check(matched, products, stray, lost_ones)]
    own = None
    if found.in_blocks and found.bits < BYTE and not large:
        divided = list(divisors(gains, found.vectors, known_before))
        own = own_weights(matched, found.tables, found.lost_tables, products.keys(), divided)
    return Compared(checks, {WEIGHTS: facts}, own)


def _factors(blocks: "Sequence[Block]") -> "list[NDArray[np.float32]]":
    """Return what vectors may be divided by: factors of the rows behind them, or of the columns before."""
    behind = [np.asarray(1 / np.where(b.columns != 0, b.columns, 1), dtype=np.float32) for b in blocks]
    return [*(b.rows for b in blocks), *behind]


def wrong_layers(model: "TorchModel", stored: Iterable[Stored], probe: Probe) -> list[str]:
    """Return the layers whose weights a file does not have as `model` has them: those it lacks, then those of others.

    Each kind comes in the order in which the layers run. An exporter may fold a layer into another one: what is wrong
    in a good file too tells nothing.
    """
    parts = parts_of(model, [probe])
    tables, products = parts.tables, parts.products
    found = _found(stored, tables, products, {})
    blocks, unknown = found.matched.blocks, [n for _, n in found.matched.unknown]
    there = {b.source for b in blocks}
    missing = {n for n, w in products.items() if n not in there and max(unknown, default=0) >= w.shape[1]}
    off = {b.source for b in blocks if not float(np.max(b.errors)) <= LIMIT}
    off |= {t.source for t in likely_tables(found.copies, tables) if t.wrong}
    order = [*tables, *products]
    return list(dict.fromkeys(name for kind in (missing, off) for name in order if name in kind))


@dataclass(frozen=True)
class _Found:
    """What a file stores, beside what it may be of the model."""

    copies: "list[list[TableFound]]"
    """What each stored table was compared with."""
    matched: Matched
    vectors: "list[NDArray[np.float32]]"
    bits: int
    """Of the matrix or table with the fewest."""
    in_blocks: bool
    """All matrices of whole numbers are stored in blocks, each with a scale."""
    tables: "Mapping[str, Sequence[NDArray[np.float32]]]"
    """Those of the source as they are stored, once or more."""
    lost_tables: int
    """Tables in fewer than 8 bits that are none of the source."""


def _read_apart(stored: Iterable[Stored]) -> Iterator[Stored]:
    """Yield what is stored, and give back what was read of the model to compare it with: in the end that is all of it.

    Weights of a mapped checkpoint count as this process's memory from then on; those of all matrices were looked into
    to recognize them.
    """
    release_memory(cycles=False)
    pages = PagesRead()
    for one in stored:
        yield one
        pages.add(one.values.nbytes)


def _matching(
    one: Stored, source: Mapping[str, Known], seen: "dict[bytes, tuple[list[Block], int]]", *, keep: bool
) -> tuple[Stored, list[Block], int]:
    """Return what is stored with the matrices of the source in it, and how many of its columns are none of them."""
    if one.kind != "product":
        return one, [], 0
    key = digest_of(one)
    if key not in seen:
        seen[key] = match_product(one, source, keep=keep)
    return one, *seen[key]


def _found(
    stored: Iterable[Stored],
    tables: "Mapping[str, NDArray[Any]]",
    products: "Mapping[str, NDArray[Any]]",
    seen: "dict[bytes, tuple[list[Block], int]]",
    *,
    keep: bool = False,
    alone: bool = False,
) -> _Found:
    """Compare what is stored, one by one; `seen` has what matrices of other files were found to be.

    `keep`: with the values of what is in blocks of few bits. `alone`: never two at once, where memory is short.
    """
    copies, blocks, unknown, vectors = list[list[TableFound]](), list[Block](), list[tuple[str, int]](), []
    rounded: dict[str, list[NDArray[np.float32]]] = {}
    lost_tables = 0
    bits, recognized, in_blocks = 32, known(products), set[bool]()
    matching = partial(_matching, source=recognized, seen=seen, keep=keep)
    for one, found, lost in made_in_threads(matching, stored, alone=alone):
        if one.kind != "vector":
            bits = min(bits, one.bits)
        match one.kind:
            case "table":
                copies.append(list(compared_rows(one, tables)))
                alike = [f.source for f in copies[-1] if f.is_like]
                whole = [name for name in alike if one.values.shape == tables[name].shape]
                lost_tables += not whole and one.bits < BYTE
                for name in whole if keep else ():
                    rounded.setdefault(name, []).append(one.values)
            case "product":
                if one.bits <= BYTE:
                    in_blocks.add(one.block > 0)
                blocks += found
                unknown += [(one.name, lost)] if lost else []
            case "vector" | "bias":
                vectors.append(one.values)
    return _Found(
        copies, Matched(tuple(blocks), tuple(unknown)), vectors, bits, in_blocks == {True}, rounded, lost_tables
    )


def parts_of(model: "TorchModel", probes: Sequence[Probe]) -> Parts:
    """Return what the first text passes through; nothing where there is none. Nothing else may run the model then.

    Weights that are on disk are maps of their files, in the type in which they lie there: all of them in float32 would
    be the model in memory.
    """
    import torch

    from converter.model_folder.offload import maps_of

    tables, products, gains = {}, {}, {}
    probe = next(iter(probes), None)
    if probe is None:
        return Parts()
    maps = maps_of(model.module)
    for name, module in _called(model, probe):
        weight = maps.get(f"{name}.weight", getattr(module, "weight", None))
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            continue
        values = _as_stored(weight)
        if isinstance(module, torch.nn.Embedding):
            tables[name] = values
        elif isinstance(module, torch.nn.Linear):
            products[name] = values.T
        elif type(module).__name__ == "Conv1D":
            products[name] = values
        elif values.ndim == 1:
            gains[name] = as_float32(values)
    return Parts(tables, products, gains)


def _as_stored(weight: "torch.Tensor") -> "NDArray[Any]":
    """Return a weight as an array that shares its memory."""
    import onnx_ir as ir
    import torch

    given = weight.detach().cpu()
    if given.dtype != torch.bfloat16:
        return np.asarray(given.numpy())
    return np.asarray(given.view(torch.int16).numpy().view(ir.DataType.BFLOAT16.numpy()))


def _called(model: "TorchModel", probe: Probe) -> "list[tuple[str, Any]]":
    """Return the modules without parts that one text passes through, by name; one that is shared once."""
    named = {id(m): (name, m) for name, m in modules_of(model) if not any(True for _ in m.children())}
    called: dict[int, None] = {}
    hooks = [m.register_forward_hook(lambda m, _given, _made: called.setdefault(id(m))) for _, m in named.values()]
    try:
        run_probe(model, probe, torch_run(model))
    finally:
        for hook in hooks:
            hook.remove()
    return [named[key] for key in called]


def _tables_check(model: "TorchModel", found: "Sequence[TableFound]") -> Check:
    compared = [f for f in found if f.stored is not None]
    n = float(sum(f.rows for f in compared))
    for one in compared:
        if one.wrong:
            rows = ", ".join(_row(model, one, r) for r in one.wrong[:SHOWN])
            more = f" and {len(one.wrong) - SHOWN} more" if len(one.wrong) > SHOWN else ""
            detail = f"{len(one.wrong)} of {one.rows} rows of {one.source} are not the model's: {rows}{more}"
            return Check(TABLES, Status.FAIL, n - len(one.wrong), n, detail)
    if not compared:
        return Check(TABLES, Status.NOT_RUN, detail="the file holds no table of rows that is like one of the model's")
    left = [f.source for f in found if f.stored is None]
    detail = f"all {n:.0f} rows of {len(compared)} tables are the model's, within what their precision allows"
    return Check(TABLES, Status.PASS, n, n, detail + (f"; not compared: {', '.join(left)}" if left else ""))


def _row(model: "TorchModel", table: "TableFound", row: int) -> str:
    is_words = table.rows == len(model.tokenizer)
    return repr(model.tokenizer.convert_ids_to_tokens(row)) if is_words else str(row)


def _products_check(
    matched: Matched,
    products: "Mapping[str, NDArray[Any]]",
    stray: "Sequence[Stray]",
    gone: "Sequence[Lost]",
) -> Check:
    worst = max((float(np.max(b.errors)) for b in matched.blocks), default=None)
    faults = [*_unknown(matched, products), *_off(matched), *map(_said, stray), *map(_missing, gone)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return Check(WEIGHTS, Status.FAIL, worst, LIMIT, faults[0] + more)
    if worst is None:
        return Check(WEIGHTS, Status.NOT_RUN, None, LIMIT, "the file holds no matrix that is like one of the model's")
    detail = (
        f"{len({b.source for b in matched.blocks})} of {len(products)} matrices are in the file, off by at most "
        f"{worst:.2g} times what rounding explains (at most {LIMIT:g} wanted)"
    )
    return Check(WEIGHTS, Status.PASS, worst, LIMIT, detail)


def _unknown(matched: Matched, products: "Mapping[str, NDArray[Any]]") -> Iterator[str]:
    """Yield matrices of the model that the file lacks, where it has others in their place: the exporter folds some."""
    known = {b.source for b in matched.blocks}
    for name, weight in products.items():
        other = next((o for o, n in matched.unknown if n >= weight.shape[1]), None)
        if name not in known and other is not None:
            yield f"the weights of {name} are not in the file, and {other} are no weights of the model"


def _off(matched: Matched) -> Iterator[str]:
    for block in sorted(matched.blocks, key=lambda b: -float(np.max(b.errors))):
        if not float(np.max(block.errors)) <= LIMIT:
            yield (
                f"{int(np.sum(block.errors > LIMIT))} of {len(block.errors)} columns of {block.source} are not the "
                f"model's: column {int(np.argmax(block.errors))} is off by {np.max(block.errors):.2g} times what "
                f"rounding to {block.bits} bits explains; at most {LIMIT:g} wanted"
            )


def _said(one: Stray) -> str:
    return (
        f"{one.side} {one.index} of {one.block.source} is {one.factor:.3g} times the model's, and nothing else in the "
        "file makes up for it"
    )


def _missing(one: Lost) -> str:
    return f"the file lacks {one.name} as it was before quantization: {one.detail}"
