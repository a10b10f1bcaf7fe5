"""What a sublayer of each width takes of a budget: milliseconds, timed on this machine, or bytes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.jsonfile import read_json, write_json
from converter.resources import cpu_facts
from converter.structured.kernels import Dimensions, Products

if TYPE_CHECKING:
    from converter.stage import Progress
    from converter.structured.streams import Kind

CALM = 0.9
"""Share of a CPU that timing has where nothing else wants one."""
VERSION = 5
"""Of the way of timing: tables of another are not used."""


@dataclass(frozen=True)
class CostTable:
    """Costs at some widths, in between on a line."""

    unit: str
    fixed: float
    """What no pruning removes."""
    heads: tuple[tuple[int, float], ...]
    neurons: tuple[tuple[int, float], ...]
    """Width and cost, ascending; width 0 is what a sublayer without units still takes."""
    about: Mapping[str, Any]
    """How it was found, for the record."""
    last: "CostTable | None" = None
    """Of the last layer, where that computes one token alone: its units are cheap. None: it is a layer like any."""

    def of(self, kind: "Kind", width: int) -> float:
        return cost_on(self.heads if kind == "attention" else self.neurons, width)

    def layer(self, index: int, n_layers: int) -> "CostTable":
        """Return the table that holds for one layer of so many."""
        return self.last if self.last is not None and index == n_layers - 1 else self

    def times(self, passes: int) -> "CostTable":
        """Return the table of sublayers that are run `passes` times (ALBERT)."""
        heads = tuple((w, c * passes) for w, c in self.heads)
        return replace(self, heads=heads, neurons=tuple((w, c * passes) for w, c in self.neurons))

    def total(self, widths: Sequence[tuple[int, int]]) -> float:
        """Return the cost of a model of these heads and neurons, a layer."""
        tables = [self.layer(i, len(widths)) for i in range(len(widths))]
        return self.fixed + sum(
            table.of("attention", h) + table.of("ffn", n) for table, (h, n) in zip(tables, widths, strict=True)
        )


def size_table(dimensions: Dimensions, n_parameters: int, full: Sequence[tuple[int, int]], width: float) -> CostTable:
    """Return the table of a package's megabytes, `width` bytes a parameter."""
    head = 4 * dimensions.hidden * dimensions.head_dim * width / 1e6
    neuron = (dimensions.ffn_blocks + 1) * dimensions.hidden * width / 1e6
    most_heads, most_neurons = max(h for h, _ in full), max(n for _, n in full)
    units = sum(head * h + neuron * n for h, n in full)
    return CostTable(
        "MB",
        n_parameters * width / 1e6 - units,
        ((0, 0.0), (most_heads, head * most_heads)),
        ((0, 0.0), (most_neurons, neuron * most_neurons)),
        {"bytes_per_parameter": width},
    )


def latency_table(
    dimensions: Dimensions,
    products: Products,
    widest: tuple[int, int],
    lengths: Sequence[int],
    progress: "Progress",
    measured: dict[str, Any] | None = None,
    alone: "Callable[[], AbstractContextManager[None]]" = nullcontext,
) -> CostTable:
    """Time sublayers in ONNX Runtime, one thread, one text, at `lengths`; a known table is read from the cache.

    While they are timed, they run `alone`.

    One that is in `measured` is taken as it is, wherever it was measured; what is used is put there.
    """
    key = _key(dimensions, products, widest, lengths)

    def take() -> dict[str, Any]:
        from converter.structured.timing import time_sublayers

        with alone():
            return time_sublayers(dimensions, products, widest, lengths, progress)

    known = timed_once(key, take, progress, measured)
    about = {
        "timed_with": f"onnxruntime {_runtime()}, {products} products",
        "lengths": list(lengths),
        "last_layer_of_one_token": dimensions.one_token,
        "cpu_share": round(known.get("cpu_share", 1.0), 3),
    }
    table = CostTable("ms", known["fixed"], curve_of(known["heads"]), curve_of(known["neurons"]), about)
    if not dimensions.one_token:
        return table
    last = replace(table, heads=curve_of(known["heads_of_one"]), neurons=curve_of(known["neurons_of_one"]))
    return replace(table, last=last)


def timed_once(
    facts: Mapping[str, Any], take: Callable[[], dict[str, Any]], progress: "Progress", measured: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what `take` measures of `facts`, or what is known of it: from `measured`, or of this machine's cache.

    What is used is put into `measured`; times of a busy machine are said to be that, and not kept.
    """
    key = {"version": VERSION, "machine": _machine(), "runtime": _runtime(), **facts}
    file, name = _cache_file(key), _name_of(key)
    kept = {} if measured is None else measured
    known = kept.get(name) or _read(file, key)
    if known is None:
        known = take()
        if known["cpu_share"] < CALM:
            # Not kept: asked for twice the speed, such a table has given 1.7 times.
            progress.note(
                f"sub-layers were timed on a busy machine (this process had {known['cpu_share']:.0%} of a CPU): the "
                "speed may miss its goal; run again on an idle machine"
            )
        else:
            _write(file, key, known)
    kept[name] = known
    return dict(known)


def cost_on(curve: Sequence[tuple[int, float]], width: int) -> float:
    """Return the cost of a width, between those of the nearest two that are known."""
    widths, costs = zip(*curve, strict=True)
    return float(np.interp(width, widths, costs))


def curve_of(points: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(w), float(c)) for w, c in points)


def natural_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    """Return five lengths that stand for all: the middles of five equal shares of the texts."""
    return tuple(int(x) for x in np.quantile(np.asarray(lengths), (0.1, 0.3, 0.5, 0.7, 0.9), method="nearest"))


def _key(dimensions: Dimensions, products: Products, widest: tuple[int, int], lengths: Sequence[int]) -> dict[str, Any]:
    return {
        "products": products,
        "hidden": dimensions.hidden,
        "head_dim": dimensions.head_dim,
        "ffn_blocks": dimensions.ffn_blocks,
        "embeddings": dimensions.embeddings,
        "layers": dimensions.layers,
        "one_token": dimensions.one_token,
        "widest": list(widest),
        "lengths": list(lengths),
    }


def _name_of(key: Mapping[str, Any]) -> str:
    """Return what was timed, in a line: the machine and its runtime apart, as a table may be used on another."""
    return " ".join(f"{k}={v}" for k, v in key.items() if k not in {"machine", "runtime"}).replace(", ", ",")


def _runtime() -> str:
    import onnxruntime as ort

    return str(ort.__version__)


def _machine() -> str:
    import platform

    names = [value for name, value in cpu_facts() if name == "model name"]
    return names[0] if names else f"{platform.machine()} {platform.processor()}"


def _cache_file(key: Mapping[str, Any]) -> Path:
    import hashlib
    import json

    from converter.cache.location import cache_root

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / "latency" / f"{digest}.json"


def _read(file: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a table of the cache, None where there is none that can be used."""
    from converter.errors import ExportError

    try:
        table = read_json(file) if file.is_file() else None
    except ExportError:
        return None
    return table["costs"] if isinstance(table, dict) and table.get("key") == key and "costs" in table else None


def _write(file: Path, key: Mapping[str, Any], costs: Mapping[str, Any]) -> None:
    """Keep a table for the next run; a cache that cannot be written only costs time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": dict(key), "costs": dict(costs)})
    except OSError:
        return
