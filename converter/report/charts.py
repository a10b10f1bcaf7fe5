"""What the page draws, as numbers: where each bar, step and point goes. No markup is written here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BINS_A_DECADE = 4
LEAST_DECADES = 3
FLOOR = 1e-8
"""Errors below are float32 rounding; they share the leftmost bin."""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `share` (0..1) of the longest."""

    label: str
    value: float | None
    share: float
    is_source: bool = False


def bars(rows: Sequence[tuple[str, float | None, bool]]) -> list[Bar]:
    """Scale `(label, value, is_source)` to the largest value. Rows without a value keep their place."""
    largest = max((value for _, value, _ in rows if value), default=0.0)
    return [Bar(label, value, (value or 0) / largest if largest else 0.0, source) for label, value, source in rows]


@dataclass(frozen=True)
class Bin:
    low: float
    high: float
    count: int
    share: float
    """Of the fullest bin."""
    over: bool
    """All of it is above the limit."""


@dataclass(frozen=True)
class Histogram:
    """Errors on a logarithmic axis. Positions are shares (0..1) of its width."""

    bins: tuple[Bin, ...]
    ticks: tuple[tuple[float, float], ...]
    """Position and value of each decade."""
    limit: float | None
    limit_at: float | None
    median: float
    worst: float
    n: int
    n_not_finite: int


def histogram(errors: Sequence[float | None], limit: float | None) -> Histogram | None:
    """Return the distribution of errors; None where there is nothing to draw."""
    finite = sorted(e for e in errors if e is not None)
    if not finite:
        return None
    top = max(finite[-1], limit or 0.0, FLOOR * 10)
    last = math.ceil(math.log10(top) - 1e-9)
    smallest = max(min(next((e for e in finite if e > FLOOR), FLOOR), limit or math.inf), FLOOR)
    # Strictly below the limit, so that the leftmost bin, which holds the zeros, is never one over it.
    first = min(math.floor(math.log10(smallest) - 0.01), last - LEAST_DECADES)
    n_bins = (last - first) * BINS_A_DECADE
    counts = [0] * n_bins
    for error in finite:
        place = (math.log10(max(error, FLOOR)) - first) * BINS_A_DECADE
        counts[min(max(math.floor(place), 0), n_bins - 1)] += 1
    edges = [10 ** (first + i / BINS_A_DECADE) for i in range(n_bins + 1)]
    fullest = max(counts)
    made = tuple(
        Bin(edges[i], edges[i + 1], n, n / fullest, limit is not None and edges[i] >= limit * (1 - 1e-9))
        for i, n in enumerate(counts)
    )
    ticks = tuple(((k - first) / (last - first), 10.0**k) for k in range(first, last + 1))
    at = min(max((math.log10(limit) - first) / (last - first), 0.0), 1.0) if limit else None
    return Histogram(
        bins=made,
        ticks=ticks,
        limit=limit,
        limit_at=at,
        median=finite[len(finite) // 2],
        worst=finite[-1],
        n=len(finite),
        n_not_finite=len(errors) - len(finite),
    )


@dataclass(frozen=True)
class Pair:
    """Source and package at texts of up to `tokens` tokens."""

    tokens: int
    source: float
    package: float
    source_share: float
    package_share: float


def by_length(milliseconds: Mapping[str, float | None]) -> list[Pair]:
    """Return latency by length, from the keys `package_16`, `source_16` and so on."""
    found = sorted(int(k.removeprefix("package_")) for k in milliseconds if k.startswith("package_"))
    times = [(n, milliseconds.get(f"source_{n}"), milliseconds.get(f"package_{n}")) for n in found]
    known = [(n, source, package) for n, source, package in times if source and package]
    largest = max((max(source, package) for _, source, package in known), default=1.0)
    return [Pair(n, s, p, s / largest, p / largest) for n, s, p in known]


def by_signature(facts: Mapping[str, Any]) -> list[Bar]:
    """Return what each fixed length of a file takes; empty where it takes any."""
    speed = facts.get("speed")
    found = speed.get("ms_by_signature") if isinstance(speed, Mapping) else None
    if not isinstance(found, Mapping):
        return []
    # A report that is read again has its keys in the order of letters.
    return bars([(f"{n} tokens", found[n], False) for n in sorted(found, key=int)])


@dataclass(frozen=True)
class WritingSpeed:
    """How fast a package writes beside its source, and where the milliseconds of one text go."""

    prompt_tokens: int
    tokens: int
    tokens_per_second: list[Bar]
    first_token_ms: list[Bar]
    parts: list[Bar]


def writing_speed(facts: Mapping[str, Any]) -> WritingSpeed | None:
    """Return what there is to draw of a package that writes text; None of any other."""
    speed = facts.get("speed")
    found = speed.get("writing") if isinstance(speed, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        return None
    rates, firsts = (
        bars([(name, value, name == "source") for name, value in sorted(found[key].items(), reverse=True)])
        for key in ("tokens_per_second", "first_token_ms")
    )
    parts = bars([(name, value, False) for name, value in found["parts_ms"].items()])
    return WritingSpeed(found["prompt_tokens"], found["tokens"], rates, firsts, parts)


@dataclass(frozen=True)
class Curve:
    """A line in a box of 100 × 100, its origin at the top left."""

    points: str
    first: float
    last: float
    low: float
    high: float
    steps: int


def curve(values: Any) -> Curve | None:
    """Return the loss over the steps, from `[[step, loss], …]`; None where that is not what `values` holds."""
    if not isinstance(values, list) or len(values) < 2:
        return None
    pairs = [v for v in values if isinstance(v, list) and len(v) == 2 and all(isinstance(x, (int, float)) for x in v)]
    if len(pairs) < 2:
        return None
    steps, losses = [float(p[0]) for p in pairs], [float(p[1]) for p in pairs]
    low, high, width = min(losses), max(losses), (steps[-1] - steps[0]) or 1.0
    height = (high - low) or 1.0
    points = " ".join(
        f"{100 * (x - steps[0]) / width:.2f},{100 * (high - y) / height:.2f}"
        for x, y in zip(steps, losses, strict=True)
    )
    return Curve(points, losses[0], losses[-1], low, high, int(steps[-1]))


@dataclass(frozen=True)
class Layer:
    """What pruning has left of one layer."""

    index: int
    heads: tuple[bool, ...]
    """One for each head there was: whether it is kept."""
    neurons: int
    neurons_before: int


def layers(facts: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a pruning record's plan; empty where a record has none."""
    keys = ("layer", "heads_kept", "heads_before", "neurons_kept", "neurons_before")
    return [_layer(row) for row in _tables(facts.get("plan"), keys)]


@dataclass(frozen=True)
class Step:
    """How far the model was from the source after a step, over the package's worst texts."""

    name: str
    max_error: float | None
    agreement: float | None
    detail: str


def drift(facts: Mapping[str, Any]) -> list[Step]:
    """Return the steps between source and a failed package; empty where they were not looked at."""
    found = _tables(facts.get("boundaries"), ("step", "max_error", "agreement"))
    return [Step(row["step"], row["max_error"], row["agreement"], row.get("detail", "")) for row in found]


def slices(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the kinds of text that a package was judged on one by one, the lowest first."""
    return _tables(facts.get("slices"), ("by", "name", "n", "agreement", "low", "high", "status", "drop"))


def _tables(rows: Any, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows that can be drawn. Facts are free in form: a page must not fail over what a stage noted."""
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, Mapping) and all(key in row for key in keys)]


def _layer(row: Mapping[str, Any]) -> Layer:
    kept, before = row["heads_kept"], row["heads_before"]
    # A model that is pruned again counts its heads by the original's numbers: then only how many is drawn.
    places = set(kept) if all(i < before for i in kept) else set(range(len(kept)))
    return Layer(row["layer"], tuple(i in places for i in range(before)), row["neurons_kept"], row["neurons_before"])
