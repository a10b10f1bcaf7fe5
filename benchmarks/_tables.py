"""Tables in Markdown, and numbers as they stand in them."""

import math
from collections.abc import Iterable
from typing import Any

Cells = tuple[str, ...]
GRAPHS = {"one behind all lengths": "one for all lengths", "one a signature": "one per signature"}
"""What earlier runs called them."""


def table_of(about: str, columns: str, rows: Iterable[Cells]) -> str:
    """Return a Markdown table under a line about it; a column whose name ends in a colon is of numbers."""
    names = columns.split(" | ")
    lines = [about, "", row_of(*(n.rstrip(":") for n in names))]
    lines.append(row_of(*("---:" if n.endswith(":") else "---" for n in names)))
    return "\n".join([*lines, *(row_of(*cells) for cells in rows)]) + "\n"


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def beside_source(row: dict[str, Any]) -> str:
    metric = next(iter(row["metric"]), "")
    return f"{number(row['metric'].get(metric))} ({number((row['source_metric'] or {}).get(metric))})"


def judged(row: dict[str, Any]) -> Cells:
    """Return speed beside the unpruned package, and the metric on dev and on test."""
    return number(row["speedup"], 2), number(row["dev"]), number(row["test"])


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def number(value: float | None, digits: int = 4) -> str:
    """Return nothing for what was not measured, and for NaN: scores have no agreement."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def on_cpu(text: str, name: str, table: dict[str, Any]) -> str:
    """Say on which CPU a table's times were taken, behind the script that took them."""
    script = f"`benchmarks/{name}.py`"
    if script not in text:
        raise SystemExit(f"the figures of {name} do not name {script}")
    return text.replace(script, f"{script} on {table['machine']['cpu']}", 1)


def elsewhere(row: dict[str, Any], table: dict[str, Any]) -> str:
    """Return the CPU of a row that was measured on another than the rest."""
    cpu = row.get("cpu")
    return "" if cpu in {None, table["machine"]["cpu"]} else f" ({cpu})"


def part_of_text(row: dict[str, Any]) -> str:
    every = row.get("every", 1)
    return "" if every == 1 else f" (on one text in {every})"


def graphs(int8: str | None, float32: str | None) -> str:
    """Return what both files have, or what each has."""
    int8, float32 = GRAPHS.get(int8 or "", int8), GRAPHS.get(float32 or "", float32)
    if float32 in {None, int8}:
        return int8 or ""
    return f"{int8 or 'none'}; float32: {float32}"
