"""The layer at which a graph departs from the source, found by values: files do not keep the names of layers.

The output of each layer of the source is looked for among all values of the graph on the same text. A layer whose
output is nowhere to be found, as an error of the layer or because the graph computes otherwise there, is told apart by
what follows: an error goes on in the layers behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.artifact import TorchModel

Values = Mapping[str, "NDArray[np.float32]"]
Feed = Mapping[str, "NDArray[np.int64]"]
Inside = Callable[[Feed], Values]
"""What a graph makes of one text, by name, in order."""
FOLLOWING = 6
NEAR = 0.3
"""An output that is less than this far off is the same output, in numbers of fewer bits."""
CHANGED = 0.15
"""Of the largest change of a value, capped at its own size: less is a trace."""
CLEAR = 0.3
"""Of the largest gain of error from layer to layer: the first layer that gains so much is the one."""
LOST = 2.0
"""The error of an output that is nowhere in a graph, or not a number there."""
TRACE = 1e-6
"""Change of a value, relative to its size, from which it is another: kernels add up in other orders."""


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output in a graph is from the source's, relative to its size (L2), and which value it is."""

    layer: str
    error: float
    value: str


def torch_layers(model: "TorchModel", feed: Feed) -> "dict[str, NDArray[np.float32]]":
    """Return the output `[rows, width]` of every layer with weights of its own, by name, in the order they run."""
    import torch

    from converter.reference import torch_run

    made: dict[str, NDArray[np.float32]] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _given: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point() and name not in made:
                made[name] = _rows(output.detach().numpy())

        return hook

    parts = [
        (name, part)
        for name, part in model.module.named_modules()
        if name and not list(part.children()) and list(part.parameters(recurse=False))
    ]
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts]
    try:
        torch_run(model)("model", feed)
    finally:
        for one in hooks:
            one.remove()
    return made


def _rows(value: "NDArray[Any]") -> "NDArray[np.float32]":
    return value.reshape(-1, value.shape[-1]).astype(np.float32) if value.ndim else value.reshape(1, 1)


def layer_errors(wanted: "Mapping[str, NDArray[np.float32]]", found: Values) -> list[LayerError]:
    """Return, for each layer of the source, the value of a graph that is nearest to its output, and how near.

    A graph may hold more rows (padding), other axes of one row each, or a width split into heads.
    """
    by_width: dict[int, list[tuple[str, NDArray[np.float32]]]] = {}
    made = []
    for layer, rows in wanted.items():
        width = rows.shape[1]
        if layer in found:  # another model of the same layers: what was pruned is narrower
            same = found[layer]
            if len(same) == len(rows) and same.shape[1] <= width:
                kept = rows[:, kept_columns(rows, same)]
                made.append(LayerError(layer, _distance(kept, same) / (float(np.linalg.norm(kept)) or 1.0), layer))
            continue
        if width not in by_width:
            by_width[width] = [(n, v.reshape(-1, width)) for n, v in found.items() if _token_major(v, width)]
        error, name = _nearest(rows, [(n, v) for n, v in by_width[width] if len(v) >= len(rows)])
        if error > NEAR:
            # A graph may compute, in its last layers, only the row that is read.
            error, name = min((error, name), _nearest(rows[:1], [(n, v) for n, v in by_width[width] if len(v) == 1]))
        made.append(LayerError(layer, error, name))
    return made


def kept_columns(wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> "NDArray[np.int64]":
    """Return which columns of a layer's output `[rows, width]` a pruned layer kept: ascending, the nearest to its own.

    Of all ascending choices it is the one of the smallest distance (L2): a layer that was only pruned is found exactly,
    and one that computes something else stays far off.
    """
    n, width = found.shape[1], wanted.shape[1]
    if n == width:
        return np.arange(width)
    squares = (found**2).sum(0)[:, None] + (wanted**2).sum(0)[None] - 2.0 * (found.T @ wanted)
    total = np.zeros(width)  # the least distance so far, by the place of the last column at most
    ways = []
    for j in range(n):
        before = total if j == 0 else np.concatenate([[np.inf], total[:-1]])
        ending = before + squares[j]
        total = np.minimum.accumulate(ending)
        ways.append(ending)
    chosen, end = np.empty(n, np.int64), width
    for j in reversed(range(n)):
        chosen[j] = end = int(np.argmin(ways[j][:end]))
    return chosen


def _nearest(rows: "NDArray[np.float32]", values: "list[tuple[str, NDArray[np.float32]]]") -> tuple[float, str]:
    size = float(np.linalg.norm(rows)) or 1.0
    return min(((_distance(rows, v) / size, n) for n, v in values), default=(LOST, ""))


def _token_major(value: "NDArray[np.float32]", width: int) -> bool:
    """Tell whether the last axes are one token's `width` numbers."""
    size = 1
    for n in reversed(value.shape):
        size *= n
        if size == width:
            return True
        if size > width:
            return False
    return False


def _distance(wanted: "NDArray[np.float32]", found: "NDArray[np.float32]") -> float:
    distance = float(np.linalg.norm(found[: len(wanted)] - wanted))
    return distance if np.isfinite(distance) else LOST * (float(np.linalg.norm(wanted)) or 1.0)


def first_departure(errors: Sequence[LayerError], seen: Sequence[LayerError] | None = None) -> LayerError | None:
    """Return the layer whose output is first far off, and stays so in the layers behind it; None where none is.

    `seen` are the same layers in a graph that is good: outputs that are not in it are not looked for.
    """
    known = [
        e for i, e in enumerate(errors) if seen is None or i >= len(seen) or seen[i].error < max(0.02, e.error / 20)
    ]
    gains: list[float] = []
    before = 0.0
    for i, one in enumerate(known):
        behind = sorted((e.error for e in known[i + 1 : i + 1 + FOLLOWING]), reverse=True)
        goes_on = behind[min(1, len(behind) - 1)] if behind else one.error
        # What is far off while nothing behind it is, is computed otherwise, not wrongly.
        lasting = min(one.error, 4.0 * goes_on, 1.0)
        gains.append(lasting - before)
        before = max(before, lasting)
    largest = max(gains, default=0.0)
    return next((e for e, g in zip(known, gains, strict=True) if g > 0 and g >= largest * CLEAR), None)


def first_change(wanted: Values, found: Values) -> str | None:
    """Return the first value that clearly differs between two graphs of the same names; None where all are alike.

    Fitting a quantization anew may round a weight otherwise: such traces are told from what is broken by their size.
    """
    changes = {name: _change(value, found.get(name)) for name, value in wanted.items()}
    largest = min(1.0, max(changes.values(), default=0.0))
    return next((n for n, change in changes.items() if change > TRACE and change >= CHANGED * largest), None)


def _change(value: "NDArray[np.float32]", other: "NDArray[np.float32] | None") -> float:
    if other is None or other.shape != value.shape:
        return LOST
    a, b = np.nan_to_num(value), np.nan_to_num(other)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-6)


def layer_of(value: str, order: Sequence[str], errors: Sequence[LayerError]) -> str:
    """Return the layer that a value of a good graph belongs to: the first whose output is made there or later.

    `order` are all values of the graph, `errors` the layers' own there.
    """
    places = {name: i for i, name in enumerate(order)}
    at = places.get(value, len(order))
    later = [(places[e.value], i) for i, e in enumerate(errors) if e.value in places and places[e.value] >= at]
    near = [(place, i) for place, i in later if errors[i].error < NEAR]
    return errors[min(near or later)[1]].layer if later else errors[-1].layer
