"""Sublayers of several widths, timed on this machine: alone, and then put right by whole models.

Timed alone, a sublayer finds more of its weights in the caches than between its neighbours: sums of such times were
6 to 15 % short of packages. So chains of all layers are timed as well, at several widths: a plane through them turns
sums (of the last layer, and of those before) into times, and where it begins is what no pruning removes.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converter.structured.costs import cost_on
from converter.structured.kernels import POSITIONS, Chain, Dimensions, Products

if TYPE_CHECKING:
    from converter.stage import Progress

SublayerKind = Literal["heads", "neurons", "heads_of_one", "neurons_of_one"]
Curve = list[tuple[int, float]]
Whole = tuple[tuple[int, int], tuple[int, int]]
"""Heads and neurons of every layer but the last, and of the last."""
COPIES = 4
"""Sublayers in a graph: its own overhead is shared, and weights do not all stay in the nearest cache."""
ROUNDS = 12
"""So many that the least of them is free of what else the machine does."""
TURNS = 4
"""Runs that are timed before the next graph's turn: a package finds its own weights in the caches, too."""
WIDTHS = (1 / 48, 1 / 24, 1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1)
WIDTHS_OF_ONE = (1 / 24, 1 / 6, 1 / 3, 2 / 3, 1)
"""Shares of the widest that are timed."""
WHOLE = (
    (1, 1),
    (1, 1 / 8),
    (3 / 4, 3 / 4),
    (1 / 2, 1),
    (1 / 2, 1 / 2),
    (1 / 4, 1 / 4),
    (1 / 8, 1 / 8),
    (1 / 16, 1 / 16),
)
"""The same of the layers before the last and of the last, in chains of all layers."""
MOST_LAYERS = 6
"""Of such a chain: more of the same say nothing new."""


def time_sublayers(
    dimensions: Dimensions, products: Products, widest: tuple[int, int], lengths: Sequence[int], progress: "Progress"
) -> dict[str, Any]:
    """Return milliseconds by width, and what no pruning removes (`fixed`), one text, one thread.

    `cpu_share` tells how much of a CPU there was: times of a busy machine say little.
    """
    points: dict[SublayerKind, list[int]] = {"heads": _points(widest[0], 1), "neurons": _points(widest[1], 32)}
    if dimensions.one_token:
        points["heads_of_one"] = _points(widest[0], 1, WIDTHS_OF_ONE)
        points["neurons_of_one"] = _points(widest[1], 32, WIDTHS_OF_ONE)
    chains: dict[Any, Chain] = {(k, n): _chain(dimensions, products, k, n) for k, row in points.items() for n in row}
    whole = _wholes(widest, one_token=dimensions.one_token)
    chains |= {shape: _whole(dimensions, products, shape) for shape in whole}
    chains["none"] = _chain(dimensions, products, None)
    started, busy = time.perf_counter(), time.thread_time()
    found = _least(chains, dimensions, products, lengths, progress)
    cpu_share = (time.thread_time() - busy) / (time.perf_counter() - started)
    curves = {k: [(n, max(0.0, found[k, n] - found["none"]) / COPIES) for n in row] for k, row in points.items()}
    fixed, slopes = plane([_sums(curves, dimensions, shape) for shape in whole], [found[shape] for shape in whole])
    return {
        "fixed": fixed,
        "cpu_share": cpu_share,
        **{k: ascending([(n, slopes[k.endswith("_of_one")] * c) for n, c in row]) for k, row in curves.items()},
    }


def _least(
    chains: Mapping[Any, Chain],
    dimensions: Dimensions,
    products: Products,
    lengths: Sequence[int],
    progress: "Progress",
) -> dict[Any, float]:
    """Return milliseconds, the mean over lengths of the least of several runs; all graphs take turns."""
    sessions = {name: open_session(chain) for name, chain in chains.items()}
    made = dict.fromkeys(sessions, 0.0)
    with progress.task("Timing sublayers", total=ROUNDS * len(lengths)) as ticker:
        for length in lengths:
            feed = _feed(dimensions, products, length)
            found = dict.fromkeys(sessions, np.inf)
            for _ in range(ROUNDS):
                for name, session in sessions.items():
                    found[name] = min(found[name], milliseconds(session, feed))
                ticker.advance()
            for name, value in found.items():
                made[name] += float(value) / len(lengths)
    return made


def _sums(curves: Mapping[SublayerKind, Curve], dimensions: Dimensions, shape: Whole) -> tuple[float, float]:
    """Return what the curves say of the layers of such a chain: those of all tokens, and the last where it has one."""

    def of(kind: SublayerKind, width: int) -> float:
        return cost_on(curves[kind], width)

    (heads, neurons), last = shape
    n_layers = min(dimensions.layers, MOST_LAYERS)
    if not dimensions.one_token:
        return n_layers * (of("heads", heads) + of("neurons", neurons)), 0.0
    inner = (n_layers - 1) * (of("heads", heads) + of("neurons", neurons))
    return inner, of("heads_of_one", last[0]) + of("neurons_of_one", last[1])


def plane(sums: Sequence[tuple[float, float]], times: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return where the plane through the points begins, and its two slopes: the least relative error."""
    x, y = np.asarray(sums), np.asarray(times)
    columns = np.stack([np.ones(len(x)), x[:, 0], x[:, 1]], axis=1) / y[:, None]
    known = columns.any(0)
    fitted = np.ones(3)
    fitted[known] = np.linalg.lstsq(columns[:, known], np.ones(len(x)), rcond=None)[0]
    if fitted.min() <= 0:
        # Noise, or layers so small that they do not show: as they were timed, then.
        fitted = np.array([max(1e-4, float((y - x.sum(1)).min())), 1.0, 1.0])
    return float(fitted[0]), (float(fitted[1]), float(fitted[2]))


def ascending(points: Curve) -> Curve:
    """More units never cost less: what says so is noise."""
    costs = np.maximum.accumulate([c for _, c in points])
    return [(w, float(c)) for (w, _), c in zip(points, costs, strict=True)]


def _points(widest: int, least: int, shares: Sequence[float] = WIDTHS) -> list[int]:
    """Return 0 and some widths from `least` to `widest`."""
    return [0, *sorted({_share(widest, s, least) for s in shares})]


def _wholes(widest: tuple[int, int], *, one_token: bool) -> list[Whole]:
    """Return the shapes of chains of all layers; where the last is a layer like any it is not varied apart."""

    def width(share: float) -> tuple[int, int]:
        return _share(widest[0], share, 1), _share(widest[1], share, 32)

    return list(dict.fromkeys((width(a), width(b)) for a, b in WHOLE if one_token or a == b))


def _share(widest: int, share: float, least: int) -> int:
    return min(widest, max(least, round(widest * share / least) * least))


def _chain(dimensions: Dimensions, products: Products, kind: SublayerKind | None, width: int = 0) -> Chain:
    """Return `COPIES` sublayers, or none; those without units have nothing but a bias."""
    chain = Chain(dimensions, products)
    chain.bias_only()
    if kind == "heads_of_one" and width:
        # One after the other is not possible: behind the first there are no other tokens to look at.
        stream, made = chain.last, []
        for _ in range(COPIES):
            chain.last = stream
            chain.attention_of_one(width)
            made.append(chain.last)
        chain.side_by_side(made)
        return chain
    if kind in {"heads_of_one", "neurons_of_one"}:
        chain.first_token()
    for _ in range(COPIES if kind else 0):
        if not width:
            chain.bias_only()
        elif kind == "heads":
            chain.attention(width)
        else:
            chain.ffn(width)
    return chain


def _whole(dimensions: Dimensions, products: Products, shape: Whole) -> Chain:
    """Return a model: its layers between what lies before and behind them."""
    inner, last = shape
    chain = Chain(dimensions, products)
    chain.embeddings()
    for _ in range(min(dimensions.layers, MOST_LAYERS) - 1):
        chain.attention(inner[0])
        chain.ffn(inner[1])
    if dimensions.one_token:
        chain.attention_of_one(last[0])
    else:
        chain.attention(last[0])
    chain.ffn(last[1])
    chain.head()
    return chain


def open_session(chain: Chain) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    return ort.InferenceSession(chain.model(), options, providers=["CPUExecutionProvider"])


def _feed(dimensions: Dimensions, products: Products, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(length)
    shape = (1, length) if products == "float" else (length, 1)
    return {
        "stream": rng.standard_normal((*shape, dimensions.hidden)).astype(np.float32),
        "mask": np.zeros((1, 1, length, length), dtype=np.float32),
        "mask_of_one": np.zeros((1, 1, 1, length), dtype=np.float32),
        "padding": np.ones((1, length), dtype=np.int64),
        "ids": rng.integers(0, min(POSITIONS, dimensions.embeddings), (1, length)),
        "kinds": np.zeros((1, length), dtype=np.int64),
    }


def milliseconds(session: Any, feed: Mapping[str, Any]) -> float:
    own = {i.name: feed[i.name] for i in session.get_inputs()}
    session.run(None, own)  # another length's buffers are still there
    least = np.inf
    for _ in range(TURNS):
        started = time.perf_counter()
        session.run(None, own)
        least = min(least, time.perf_counter() - started)
    return float(1000 * least)
