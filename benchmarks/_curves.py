"""Lines in a picture: SVG, written as text, that a README shows in the light and in the dark."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP = 420, 300, 30
LEFT, RIGHT, TOP, BOTTOM = 52, 86, 30, 42
COLORS = ("#2563eb", "#dc2626", "#d97706", "#059669", "#7c3aed", "#0891b2", "#be185d", "#57534e")
FONT = 'font-family="sans-serif" font-size="11"'
INK = "#78716c"
"""Dark enough for white paper, light enough for black."""


@dataclass(frozen=True)
class Line:
    """One method: `(speed, metric)`, ascending."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(path: Path, panels: Mapping[str, Sequence[Line]], x_name: str = "times as fast, measured") -> None:
    """Write one panel a data set, side by side: the metric over the speed, one line a method."""
    methods = dict.fromkeys(line.name for lines in panels.values() for line in lines)
    colors = dict(zip(methods, itertools.cycle(COLORS), strict=False))
    boxes = [_panel(name, lines, i * (WIDTH + GAP), x_name, colors) for i, (name, lines) in enumerate(panels.items())]
    width = len(boxes) * (WIDTH + GAP) - GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" {FONT}>'
    path.write_text("\n".join([head, *boxes, "</svg>"]) + "\n", encoding="utf-8")


def _panel(name: str, lines: Sequence[Line], left: float, x_name: str, colors: Mapping[str, str]) -> str:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_low, x_high = 1.0, max([1.5, *xs])
    y_low, y_high = min(ys, default=0.0), max(ys, default=1.0)
    margin = 0.06 * ((y_high - y_low) or 1.0)
    y_low, y_high = y_low - margin, y_high + margin
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + LEFT + inner_width * (x - x_low) / (x_high - x_low)
        return across, TOP + inner_height * (y_high - y) / (y_high - y_low)

    parts = [_text(left + LEFT, TOP - 12, name, "start", bold=True)]
    for tick in _ticks(y_low, y_high):
        y = at(x_low, tick)[1]
        parts.append(_rule(left + LEFT, y, left + LEFT + inner_width, y))
        parts.append(_text(left + LEFT - 6, y + 4, f"{100 * tick:g}", "end"))
    below = TOP + inner_height + 16
    parts += [_text(at(tick, y_low)[0], below, f"{tick:g}", "middle") for tick in _ticks(x_low, x_high)]
    parts.append(_text(left + LEFT + inner_width / 2, HEIGHT - 8, x_name, "middle"))
    names: list[float] = []
    for line in sorted(lines, key=lambda li: -li.points[-1][1]):
        color = colors[line.name]
        places = [at(x, y) for x, y in line.points]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        # Names do not lie on each other.
        names.append(max([places[-1][1] + 4, *(n + 12 for n in names)]))
        parts.append(_text(places[-1][0] + 7, names[-1], line.name, "start", color))
    return "\n".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return at most eight round numbers from `low` to `high`."""
    steps = (base * 10.0**power for power in range(-6, 6) for base in (1, 2, 5))
    step = next(s for s in steps if (high - low) / s <= 8)
    return [round(i * step, 9) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{INK}" stroke-opacity="0.3"/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = INK, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{weight}>{escape(text)}</text>'
