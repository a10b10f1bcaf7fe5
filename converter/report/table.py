"""The table on the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converter.bounds.printable import printable
from converter.report.charts import slices
from converter.report.summary import PAGE_FILE, report_table
from converter.report.words import NOTHING, error, milliseconds, number, owner, share, size, times, zeros

if TYPE_CHECKING:
    from rich.table import Table

    from converter.commands.terminal import Terminal
    from converter.pipeline import Result

TYPICAL = "p99 error"
"""99 of 100 output values are at most this far from the source's; the report shows the largest, with its text."""
SHOWN_SLICES = 3
STYLES = {"PASS": "bold green", "FAIL": "bold red", "NOT_RUN": "bold yellow"}


def show(result: "Result", terminal: "Terminal") -> None:
    """Print the table, what was not run, and where the report is."""
    table = report_table(result)
    console = terminal.result_console
    titles, found = columns(table), rows(table)
    short = [(row[0].partition(" (")[0], *row[1:]) for row in found]
    drawn = (_table(titles, found, None), _table(titles, found, TYPICAL), _table(titles, short, TYPICAL))
    fitting = next((t for t in drawn if console.measure(t).maximum < console.width), None)
    if fitting is not None:
        console.print(fitting)
    else:
        terminal.result("\n".join(blocks(titles, found)))
    terminal.result_lines((*notes(table), "", f"report: {result.out / PAGE_FILE}"))


def columns(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the titles; the metric's own name is one of them."""
    return ("", "size", "latency", "agreement", next(iter(table["source"]["metric"]), "metric"), TYPICAL, "verdict")


def rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells: the source, the compressed model where there is one, then the packages."""
    source = table["source"]
    metric = next(iter(source["metric"].values()), None)
    made: list[tuple[str, ...]] = [
        (
            table["model"],
            size(source["size_bytes"]),
            milliseconds(source["milliseconds"]),
            NOTHING,
            number(metric),
            NOTHING,
            "source",
        )
    ]
    if table["compressed"]:
        n_bytes = table["compress_records"][-1]["size_bytes_made"] if table["compress_records"] else None
        made.append(_row("compressed", n_bytes, table["compressed"], source["size_bytes"], ""))
    for target in table["targets"]:
        label = f"{target['target']} ({target['precision'].partition(':')[0]})"
        verdict = f"{target['status']}{judged_on(target['evaluation'])}"
        made.append(_row(label, target["size_bytes"], target["evaluation"], source["size_bytes"], verdict))
    return made


def judged_on(evaluation: Mapping[str, Any] | None) -> str:
    """Return what a verdict is on where that is no text of the user's own; empty where it is, or is not known."""
    told = evaluation["facts"].get("statistics") if evaluation else None
    text = told.get("text", "") if isinstance(told, Mapping) else ""
    return f" on {text}" if text and text != "own text" else ""


def _row(
    label: str, n_bytes: int | None, evaluation: Mapping[str, Any] | None, source_bytes: int, verdict: str
) -> tuple[str, ...]:
    smaller = times(source_bytes, n_bytes)
    sized = f"{size(n_bytes)} ({smaller})" if smaller else size(n_bytes)
    if evaluation is None:
        return (label, sized, NOTHING, NOTHING, NOTHING, NOTHING, verdict)
    taken, source_taken = evaluation["milliseconds"].get("package"), evaluation["milliseconds"].get("source")
    faster = times(source_taken, taken)
    metric = next(iter(evaluation["metric"].values()), None)
    return (
        label,
        sized,
        f"{milliseconds(taken)} ({faster})" if faster else milliseconds(taken),
        share(evaluation["agreement"]),
        number(metric) if evaluation["metric"] else NOTHING,
        error(typical_error(evaluation)),
        verdict,
    )


def typical_error(evaluation: Mapping[str, Any]) -> float | None:
    """Return the error that 99 of 100 values of an output stay below, of the worst output; None where unknown."""
    errors = [d.get("p99_error") for d in evaluation["deviations"]]
    return None if not errors or None in errors else max(errors)


def worst_error(evaluation: Mapping[str, Any]) -> float | None:
    """Return the largest error over the output range of any output; None where any is not a number."""
    errors = [d["max_error"] for d in evaluation["deviations"]]
    return None if not errors or None in errors else max(errors)


def notes(table: Mapping[str, Any]) -> list[str]:
    """Return what was missed, what did not run and what a package is not good at, a line each: never in silence."""
    read = owner(table["facts"].get("owner_library"))
    source = [f"source: {read}"] if read else []
    return [*source, *table["notes"], *_warnings(table), *(f"FAIL: {missed}" for missed in table["budgets_missed"])] + [
        f"not run: {target['target']} {check['name']}: {check['detail'] or 'no reason given'}"
        for target in table["targets"]
        for check in (target["evaluation"]["checks"] if target["evaluation"] else ())
        if check["status"] == "NOT_RUN"
    ]


def _warnings(table: Mapping[str, Any]) -> list[str]:
    made = []
    for target in table["targets"]:
        facts = target["evaluation"]["facts"] if target["evaluation"] else {}
        name = f"{target['target']} ({target['precision'].partition(':')[0]})"
        if facts.get("not_worth_it"):
            made.append(f"{name}: {facts['not_worth_it']}")
        if facts.get("zeros"):
            made.append(f"{name}: {zeros(facts['zeros'], target['size_bytes'])}")
        made += [f"{name}: {low}" for low in low_slices(target["evaluation"])]
        made += [f"{name}: auto tried {row['precision']}: {row['said']}" for row in facts.get("candidates", ())]
        made += [
            f"{name}: {other['n_other']} of {other['n_texts']} texts get a different answer {other['name']}"
            for other in facts.get("stability", ())
            if other["n_other"]
        ]
    return made


def low_slices(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Return the kinds of text on which a package does worse than the whole may, a sentence each, the lowest first."""
    if evaluation is None:
        return []
    limit = next((c["limit"] for c in evaluation["checks"] if c["name"] == "agreement"), None)
    found = [s for s in slices(evaluation["facts"]) if limit is not None and s["agreement"] < limit]
    return [
        f"{s['by']} {s['name']!r}: {share(s['agreement'])} of {s['n']} texts get the same answer, of all texts "
        f"{share(evaluation['agreement'])}"
        for s in found[:SHOWN_SLICES]
    ]


def blocks(titles: tuple[str, ...], found: list[tuple[str, ...]]) -> list[str]:
    """Return the same for windows that are too narrow for a table: one block a row."""
    lines = []
    for row in found:
        lines += ["", f"{row[0]}  {row[-1]}".rstrip()]
        pairs = zip(titles[1:-1], row[1:-1], strict=True)
        lines += [f"  {title:11} {cell}" for title, cell in pairs if cell != NOTHING]
    return lines


def _table(titles: tuple[str, ...], found: list[tuple[str, ...]], left_out: str | None) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown = [i for i, title in enumerate(titles) if title != left_out]
    for i in shown:
        table.add_column(titles[i], justify="left" if i in {0, len(titles) - 1} else "right", no_wrap=True)
    for row in found:
        table.add_row(*(Text(printable(row[i]), style=STYLES.get(row[i].partition(" on ")[0], "")) for i in shown))
    return table
