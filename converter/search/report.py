"""`search.json` and `report.html` of a search: the front drawn, and a table of what was kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.jsonfile import json_values, write_json
from converter.search.figures import Figures, State, figures_of
from converter.search.folder import PAGE, TABLE
from converter.search.goal import Goal, front
from converter.search.honesty import knows_its_text
from converter.search.space import described

WIDTH, HEIGHT = 460.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 14.0, 44.0
BOX = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
MARGIN = 0.07
AXES = (("milliseconds", "ms per text", "Time"), ("megabytes", "MB", "Size"))


@dataclass(frozen=True)
class Dot:
    """One package in a drawing."""

    x: float
    y: float
    kind: str
    """`trial`, `front`, `start`, `plain` or `kept`: how it is drawn."""
    title: str
    """What is shown while the pointer is on it."""
    label: str = ""
    anchor: str = "start"


@dataclass(frozen=True)
class Panel:
    """One drawing: the metric over a cost."""

    title: str
    unit: str
    dots: tuple[Dot, ...]
    line: str
    """The front, as points of a polyline."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    limit_x: float | None
    limit_y: float | None


def write_search_reports(table: Mapping[str, Any], out: Path) -> None:
    """Write both files."""
    values = json_values(table)
    write_json(out / TABLE, values)
    (out / PAGE).write_text(search_page(values), encoding="utf-8")


def search_page(table: Mapping[str, Any]) -> str:
    """Return the page. What comes from a model, a text or an error is escaped."""
    from converter.report import words
    from converter.report.page import page_environment

    found = table["trials"]
    states = {str(state): sum(t["state"] == state for t in found) for state in State}
    return (
        page_environment("search", "report")
        .get_template("search.html.j2")
        .render(
            table=table,
            words=words,
            states=states,
            panels=panels(table),
            quality=quality_name(table),
            verdict=verdict(table),
            caution=caution(table),
            wanted=wanted(table["goal"], quality_name(table)),
            described=described,
            quality_of=lambda figures: quality_text(table, figures),
            box=BOX,
            not_measured=[t for t in found if t["state"] != "measured"],
            measured=[t for t in found if t["state"] == "measured"],
        )
    )


def wanted(goal: Mapping[str, float], quality: str) -> str:
    """Return the goal in words."""
    words = {
        "max_drop": "{:.3g} points of the metric to lose",
        "min_agreement": "agreement {:g}",
        "latency_ms": "{:g} ms a text",
        "speedup": "{:g} times as fast as plain",
        "size_mb": "{:g} MB",
    }
    least, most = ("min_agreement", "speedup"), ("max_drop", "latency_ms", "size_mb")
    values = {name: 100 * value if name == "max_drop" else value for name, value in goal.items()}
    said = [
        f"at {end} {' and '.join(words[n].format(values[n]) for n in names if n in values)}"
        for end, names in (("most", most), ("least", least))
        if any(n in values for n in names)
    ]
    text = ", ".join(said) or f"the front of {quality}, time and size"
    return text[0].upper() + text[1:]


def quality_name(table: Mapping[str, Any]) -> str:
    return str(table["metric"] or "agreement")


def quality_of(table: Mapping[str, Any], figures: Mapping[str, Any]) -> float:
    """Return what is drawn upwards: the metric where the text is labelled, else agreement."""
    return float(figures["metric"] if table["metric"] else figures["agreement"])


def quality_text(table: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    return f"{quality_of(table, figures):.4f}"


def verdict(table: Mapping[str, Any]) -> tuple[str, str]:
    """Return the status of the search and what it says in a sentence."""
    if not table["finalists"] or table["finalists"][0]["figures"] is None:
        return "FAIL", "No package could be made"
    winner, gain = table["finalists"][0], table["gain"]
    if table["missed"]:
        return "FAIL", f"The goal was not met; the nearest is kept: {'; '.join(table['missed'])}"
    status = winner["status"]
    if not table["goal"]:
        n = len(front({t["number"]: figures_of(t["figures"]) for t in table["trials"] if t["state"] == "measured"}))
        return status, f"The front has {n} packages"
    if winner["start"]:
        return status, f"Nothing better than {winner['start']} was found"
    if gain is None:
        return status, f"The best found is {winner['name']}"
    broken = limits_broken_by(table, gain["over"])
    kept = f"The limits are kept, which {gain['over']} breaks: {'; '.join(broken)}"
    return status, kept if broken else gain_sentence(gain)


def limits_broken_by(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return which limits a package in full breaks: against one that breaks any, no gain tells anything."""
    found = next((f["figures"] for f in table["finalists"] if f["name"] == name), None)
    return () if found is None else Goal(**table["goal"]).said(figures_of(found))


def gain_sentence(gain: Mapping[str, Any]) -> str:
    """Return what the search has gained over the recipe that it started from, and how sure that is."""
    if gain["by"] == "loss":
        value = f"{100 * gain['value']:.2f} points on {gain['text']}"
        if not gain["sure"]:
            return f"No sure gain over {gain['over']}: {value}, which may be chance"
        return f"Better than {gain['over']} by {value}, at least {100 * gain['low']:.2f} with 95 % confidence"
    what = "faster" if gain["by"] == "milliseconds" else "smaller"
    if not gain["sure"]:
        return f"No sure gain over {gain['over']}: {100 * gain['value']:.1f} % {what}"
    times = 1 / (1 - gain["value"])
    return f"{times:.2f} times {'as fast as' if what == 'faster' else 'smaller than'} {gain['over']}"


def caution(table: Mapping[str, Any]) -> str:
    """Return what is to be known of the text that was chosen by; nothing, where it is like that of `--eval`."""
    found, elsewhere = table["source_metric"], table["source_eval"]
    if not knows_its_text(found, elsewhere, table["text"]["n_tuning"], table["n_eval"]):
        return ""
    return (
        f"The model knows the calibration text: {table['metric']} {found:.3f} there, {elsewhere:.3f} on --eval. "
        "What is lost there is more than what is lost on other text; with --calibration that it was not taught on, "
        "the search chooses better."
    )


def panels(table: Mapping[str, Any]) -> list[Panel]:
    """Return the metric over time and over size."""
    rows = _rows(table)
    return [_panel(table, rows, *axis) for axis in AXES] if rows else []


@dataclass(frozen=True)
class _Row:
    figures: Figures
    kind: str
    quality: float
    title: str
    label: str


def _rows(table: Mapping[str, Any]) -> list[_Row]:
    trials = [t for t in table["trials"] if t["state"] == "measured"]
    fronted = set(front({t["number"]: figures_of(t["figures"]) for t in trials}))
    made = []
    for trial in trials:
        start = trial["start"]
        kind = ("plain" if start.startswith("plain") else "start") if start else "trial"
        kind = "front" if kind == "trial" and trial["number"] in fronted else kind
        made.append(_row(table, trial["figures"], kind, start or f"trial {trial['number']}", trial["recipe"], start))
    for one in table["finalists"]:
        if one["figures"] is not None and one["folder"]:
            name = f"{one['folder']} (made in full)"
            made.append(_row(table, one["figures"], "kept", name, one["recipe"], one["folder"]))
    return made


def _row(
    table: Mapping[str, Any], figures: Mapping[str, Any], kind: str, name: str, recipe: Mapping[str, Any], label: str
) -> _Row:
    found = figures_of(figures)
    title = (
        f"{name}: {described(recipe)}\n{quality_name(table)} {quality_text(table, figures)}, "
        f"agreement {found.agreement:.4f}, {found.milliseconds:.2f} ms, {found.megabytes:.1f} MB"
    )
    return _Row(found, kind, quality_of(table, figures), title, label)


def _panel(table: Mapping[str, Any], rows: Sequence[_Row], name: str, unit: str, title: str) -> Panel:
    goal = table["goal"]
    limit_x = _limit_x(table, name)
    limit_y = None if table["metric"] else goal.get("min_agreement")
    if table["metric"] and "max_drop" in goal and table["source_metric"] is not None:
        limit_y = table["source_metric"] - goal["max_drop"]
    xs = [float(getattr(r.figures, name)) for r in rows] + ([limit_x] if limit_x else [])
    ys = [r.quality for r in rows] + ([limit_y] if limit_y else [])
    x_low, x_high = 0.0, max(xs) * (1 + MARGIN)
    spread = (max(ys) - min(ys)) or 0.01
    y_low, y_high = min(ys) - MARGIN * spread, max(ys) + MARGIN * spread

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low)

    def up(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (y_high - y) / (y_high - y_low)

    dots = []
    for row in sorted(rows, key=lambda r: ("trial", "front", "start", "plain", "kept").index(r.kind)):
        x = across(float(getattr(row.figures, name)))
        anchor = "end" if x > WIDTH / 2 else "start"
        dots.append(Dot(round(x, 1), round(up(row.quality), 1), row.kind, row.title, row.label, anchor))
    return Panel(
        title=f"{quality_name(table)} and {title.lower()}",
        unit=unit,
        dots=tuple(_unlabelled(dots)),
        line=" ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in _steps(rows, name)),
        x_ticks=tuple((round(across(t), 1), f"{t:g}") for t in _ticks(x_low, x_high)),
        y_ticks=tuple((round(up(t), 1), f"{100 * t:g}") for t in _ticks(y_low, y_high)),
        limit_x=round(across(limit_x), 1) if limit_x else None,
        limit_y=round(up(limit_y), 1) if limit_y else None,
    )


def _limit_x(table: Mapping[str, Any], name: str) -> float | None:
    goal = table["goal"]
    if name == "megabytes":
        return goal.get("size_mb")
    asked = [goal["latency_ms"]] if "latency_ms" in goal else []
    if "speedup" in goal:
        asked.append(min(table["plain_ms"].values(), default=0) / goal["speedup"])
    return min(asked, default=None)


def _steps(rows: Sequence[_Row], name: str) -> list[tuple[float, float]]:
    """Return the best that was reached at each cost, of trials alike in effort."""
    made: list[tuple[float, float]] = []
    for row in sorted((r for r in rows if r.kind != "kept"), key=lambda r: float(getattr(r.figures, name))):
        if not made or row.quality > made[-1][1]:
            made.append((float(getattr(row.figures, name)), row.quality))
    return made


def _unlabelled(dots: Sequence[Dot]) -> list[Dot]:
    """Return the dots without labels that would lie on others."""
    taken: list[tuple[float, float]] = []
    made = []
    for dot in reversed(dots):
        free = all(abs(dot.y - y) > 11 or abs(dot.x - x) > 90 for x, y in taken)
        if dot.label and free:
            taken.append((dot.x, dot.y))
        made.append(dot if free else Dot(dot.x, dot.y, dot.kind, dot.title, "", dot.anchor))
    return made[::-1]


def _ticks(low: float, high: float) -> list[float]:
    power = math.floor(math.log10((high - low) / 7))
    step = next(s for base in (1, 2, 5, 10, 20) if (high - low) / (s := base * 10.0**power) <= 7)
    return [round(i * step, 9) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
