"""What a sublayer of each width takes of a budget: milliseconds, timed on this machine, or bytes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.jsonfile import read_json, write_json
from converter.prune._kernels import Chain, Dimensions, Products

if TYPE_CHECKING:
    from converter.prune._streams import Kind
    from converter.stage import Progress

COPIES = 4
"""Sublayers in a graph: its own overhead is shared, and weights do not all stay in the nearest cache."""
ROUNDS = 16
VERSION = 1
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

    def of(self, kind: "Kind", width: int) -> float:
        widths, costs = zip(*(self.heads if kind == "attention" else self.neurons), strict=True)
        return float(np.interp(width, widths, costs))

    def times(self, passes: int) -> "CostTable":
        """Return the table of sublayers that are run `passes` times (ALBERT)."""
        heads = tuple((w, c * passes) for w, c in self.heads)
        return replace(self, heads=heads, neurons=tuple((w, c * passes) for w, c in self.neurons))

    def total(self, widths: Sequence[tuple[int, int]]) -> float:
        """Return the cost of a model of these heads and neurons, a layer."""
        return self.fixed + sum(self.of("attention", h) + self.of("ffn", n) for h, n in widths)


def size_table(dimensions: Dimensions, n_parameters: int, full: Sequence[tuple[int, int]], width: int) -> CostTable:
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
) -> CostTable:
    """Time sublayers in ONNX Runtime, one thread, one text, at `lengths`; a known table is read from the cache."""
    key = _key(dimensions, products, widest, lengths)
    file = _cache_file(key)
    known = _read(file, key)
    if known is None:
        known = _time(dimensions, products, widest, lengths, progress)
        _write(file, key, known)
    return CostTable(
        "ms",
        known["fixed"],
        tuple((int(w), float(c)) for w, c in known["heads"]),
        tuple((int(w), float(c)) for w, c in known["neurons"]),
        {"timed_with": f"onnxruntime {key['runtime']}, {products} products", "lengths": list(lengths)},
    )


def natural_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    """Return five lengths that stand for all: the middles of five equal shares of the texts."""
    return tuple(int(x) for x in np.quantile(np.asarray(lengths), (0.1, 0.3, 0.5, 0.7, 0.9), method="nearest"))


def _time(
    dimensions: Dimensions, products: Products, widest: tuple[int, int], lengths: Sequence[int], progress: "Progress"
) -> dict[str, Any]:
    heads, neurons = _points(widest[0], 1), _points(widest[1], 32)
    chains = {("head", 0): _chain(dimensions, products, "bias_only")}
    chains |= {("head", n): _chain(dimensions, products, "attention", n) for n in heads}
    chains |= {("neuron", n): _chain(dimensions, products, "ffn", n) for n in neurons}
    chains |= {("fixed", 0): _embeddings(dimensions), ("none", 0): _chain(dimensions, products, "")}
    sessions = {name: _open(chain) for name, chain in chains.items()}
    with progress.task("Timing sublayers", total=ROUNDS * len(lengths)) as ticker:
        least = dict.fromkeys(sessions, 0.0)
        for length in lengths:
            feed = _feed(dimensions, length)
            found = dict.fromkeys(sessions, np.inf)
            for _ in range(ROUNDS):
                for name, session in sessions.items():
                    found[name] = min(found[name], _milliseconds(session, feed))
                ticker.advance()
            for name, value in found.items():
                least[name] += value / len(lengths)
    empty = least["none", 0]

    def cost(name: tuple[str, int]) -> float:
        return max(0.0, least[name] - empty) / COPIES

    zero = cost(("head", 0))
    return {
        # A session's own time is in every package once.
        "fixed": least["fixed", 0],
        "heads": _ascending([(0, zero), *((n, cost(("head", n))) for n in heads)]),
        "neurons": _ascending([(0, zero), *((n, cost(("neuron", n))) for n in neurons)]),
    }


def _ascending(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """More units never cost less: what says so is noise."""
    costs = np.maximum.accumulate([c for _, c in points])
    return [(w, float(c)) for (w, _), c in zip(points, costs, strict=True)]


def _points(widest: int, least: int) -> list[int]:
    """Return about eight widths from `least` to `widest`, closer where it is narrow."""
    shares = (1 / 48, 1 / 24, 1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1)
    return sorted({min(widest, max(least, round(widest * s / least) * least)) for s in shares})


def _chain(dimensions: Dimensions, products: Products, kind: str, width: int = 0) -> Chain:
    chain = Chain(dimensions, products)
    chain.bias_only()
    for _ in range(COPIES if kind else 0):
        if kind == "attention":
            chain.attention(width)
        elif kind == "ffn":
            chain.ffn(width)
        else:
            chain.bias_only()
    return chain


def _embeddings(dimensions: Dimensions) -> Chain:
    chain = Chain(dimensions, "float")
    chain.embeddings()
    return chain


def _open(chain: Chain) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    return ort.InferenceSession(chain.model(), options, providers=["CPUExecutionProvider"])


def _feed(dimensions: Dimensions, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(length)
    return {
        "stream": rng.standard_normal((1, length, dimensions.hidden)).astype(np.float32),
        "padding": np.ones((1, length), dtype=np.int32),
        "ids": rng.integers(0, min(512, dimensions.embeddings), (1, length)),
    }


def _milliseconds(session: Any, feed: Mapping[str, Any]) -> float:
    own = {i.name: feed[i.name] for i in session.get_inputs()}
    session.run(None, own)  # another length's buffers are still there
    started = time.perf_counter()
    session.run(None, own)
    return 1000 * (time.perf_counter() - started)


def _key(dimensions: Dimensions, products: Products, widest: tuple[int, int], lengths: Sequence[int]) -> dict[str, Any]:
    import onnxruntime as ort

    return {
        "version": VERSION,
        "machine": _machine(),
        "runtime": ort.__version__,
        "products": products,
        "hidden": dimensions.hidden,
        "head_dim": dimensions.head_dim,
        "ffn_blocks": dimensions.ffn_blocks,
        "embeddings": dimensions.embeddings,
        "widest": list(widest),
        "lengths": list(lengths),
    }


def _machine() -> str:
    import platform

    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else f"{platform.machine()} {platform.processor()}"


def _cache_file(key: Mapping[str, Any]) -> Path:
    import hashlib
    import json

    from converter.samples import cache_root

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
