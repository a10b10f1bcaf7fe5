"""What is wanted of a package: limits, and what is made as small as it can be within them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.errors import UsageError
from converter.precision import points_text
from converter.search.figures import Figures

POINT = 0.01
"""A drop of the metric, or a loss of agreement, beyond its limit weighs as much as a file that is that much larger."""
ROUNDING = 1e-9
"""Shares are ratios of counts: their difference may exceed an exact limit by rounding alone, as for the gate."""
LESS = ("loss", "milliseconds", "megabytes")
"""What a package should have little of, the most important first."""


@dataclass(frozen=True)
class Goal:
    """Limits, each None where nothing is asked; what has no limit is minimized."""

    max_drop: float | None = None
    """Of the task's metric against the source, in its own unit (0.01: one percentage point)."""
    min_agreement: float | None = None
    latency_ms: float | None = None
    """Of one text, one thread, at the lengths of the tuning text, on this machine."""
    speedup: float | None = None
    """Over the plain package of the same target: the unchanged model in the target's default precision."""
    size_mb: float | None = None
    """Of the model's files, in megabytes of 10^6 bytes."""

    def __post_init__(self) -> None:
        for name in ("latency_ms", "speedup", "size_mb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"wanted a number above 0, found {value:g}", where=f"--{name.replace('_', '-')}")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise UsageError(f"wanted a share up to 1, found {self.min_agreement:g}", where="--min-agreement")

    @property
    def limited(self) -> bool:
        return any(value is not None for value in vars(self).values())

    @property
    def minimized(self) -> tuple[str, ...]:
        """Return what the search makes small, the most important first; all of it where all is limited."""
        limited = {
            "loss": self.max_drop is not None or self.min_agreement is not None,
            "milliseconds": self.latency_ms is not None or self.speedup is not None,
            "megabytes": self.size_mb is not None,
        }
        return tuple(name for name in LESS if not limited[name]) or LESS[:1]

    def excess(self, found: Figures) -> dict[str, float]:
        """Return by how much each limit is broken (above 0) or kept (below), comparable between limits."""
        made: dict[str, float] = {}
        if self.max_drop is not None:
            made["max_drop"] = _points(found.drop - self.max_drop) if found.drop is not None else 1.0
        if self.min_agreement is not None:
            made["min_agreement"] = _points(self.min_agreement - found.agreement)
        return made | self.costs_of(found)

    def cost_excess(
        self, milliseconds: float | None, speedup: float | None, megabytes: float | None
    ) -> dict[str, float]:
        """Return the same for time and size alone; what is not known is left out."""
        made: dict[str, float] = {}
        if self.latency_ms is not None and milliseconds is not None:
            made["latency_ms"] = milliseconds / self.latency_ms - 1
        if self.speedup is not None and speedup is not None:
            made["speedup"] = self.speedup / speedup - 1
        if self.size_mb is not None and megabytes is not None:
            made["size_mb"] = megabytes / self.size_mb - 1
        return made

    def costs_of(self, found: Figures) -> dict[str, float]:
        """Return by how much the limits of time and size are broken or kept."""
        return self.cost_excess(found.milliseconds, found.speedup, found.megabytes)

    def missed(self, found: Figures) -> float:
        """Return how far all broken limits are missed together; 0 where all are met."""
        return sum(max(0.0, value) for value in self.excess(found).values())

    def said(self, found: Figures) -> tuple[str, ...]:
        """Return a sentence for each limit that is broken: what was found and what was wanted."""
        lost = "an unknown amount" if found.drop is None else f"{100 * found.drop:.2f} points"
        too_long, too_large = found.milliseconds / (self.latency_ms or 1), found.megabytes / (self.size_mb or 1)
        told = {
            "max_drop": f"the metric falls by {lost}, at most {100 * (self.max_drop or 0):.2f} are wanted",
            "min_agreement": f"agreement is {found.agreement:.4f}, at least {self.min_agreement} is wanted",
            "latency_ms": f"a text takes {found.milliseconds:.3g} ms, at most {self.latency_ms} ms are wanted "
            f"({too_long:.2f} times as much)",
            "speedup": f"it is {found.speedup:.2f} times as fast as plain, {self.speedup} is wanted",
            "size_mb": f"the model has {found.megabytes:.3g} MB, at most {self.size_mb} MB are wanted "
            f"({too_large:.2f} times as much)",
        }
        broken = {name for name, value in self.excess(found).items() if value > 0}
        return tuple(sentence for name, sentence in told.items() if name in broken)

    def order(self, found: Figures) -> tuple[float, ...]:
        """Return what candidates are ordered by: limits first, then what is minimized, the most important first."""
        return (self.missed(found), *(float(getattr(found, name)) for name in (*self.minimized, *LESS)))

    def wanted_speedup(self, found: Figures) -> float | None:
        """Return how much faster than plain a candidate should be by the limits of time; `found` tells plain's time."""
        asked = [self.speedup] if self.speedup is not None else []
        if self.latency_ms is not None:
            asked.append(found.milliseconds * found.speedup / self.latency_ms)
        return max(asked, default=None)

    def table(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def gate_limits(self) -> dict[str, Any]:
        """Return the limits that a package's own gate can hold."""
        drop = None if self.max_drop is None else points_text(self.max_drop)
        made = {"max_drop": drop, "agreement": self.min_agreement}
        return {name: value for name, value in made.items() if value is not None}


def _points(beyond: float) -> float:
    """Return by how much a share is beyond its limit, as a limit of time or size would be; at the limit it is kept."""
    return 0.0 if abs(beyond) < ROUNDING else beyond / POINT


def front(found: Mapping[int, Figures]) -> tuple[int, ...]:
    """Return those that no other beats: in loss, time and size at once; from the fastest on."""
    kept = [k for k, one in found.items() if not any(beats(other, one) for other in found.values())]
    return tuple(sorted(kept, key=lambda k: found[k].milliseconds))


def beats(one: Figures, other: Figures) -> bool:
    """Tell whether the first is as good in everything, and better in something."""
    a, b = costs(one), costs(other)
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def costs(found: Figures) -> tuple[float, ...]:
    return tuple(float(getattr(found, name)) for name in LESS)


def hypervolume(points: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the volume that points (all to be small) dominate up to `reference`; 0 where none is below it."""
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    total, ordered = 0.0, sorted(inside)
    for i, point in enumerate(ordered):
        until = ordered[i + 1][0] if i + 1 < len(ordered) else reference[0]
        total += (until - point[0]) * hypervolume([p[1:] for p in ordered[: i + 1]], reference[1:])
    return total
