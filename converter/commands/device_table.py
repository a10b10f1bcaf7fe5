"""`plm-export bench PACKAGE --import RESULT`: what a device printed, into the list and the report of a package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.commands.session import Session
from converter.errors import UsageError


def take_results(session: Session, package: Path, results: Sequence[Path], device: str | None) -> int:
    """Import and show; see `converter.device.device_results`."""
    from converter.device.device_results import import_results

    if not device or not device.strip():
        raise UsageError("the name of the device is missing", where="--device", hint='--device "Pixel 9"')
    rows = import_results(package, results, " ".join(device.split()), session.terminal.say)
    if session.terminal.json:
        session.print_json(rows)
    else:
        _show(session, rows)
    return 0


def _show(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("device", "processor", "threads", "tokens", "mean ms", "± ms", "first ms", "load ms", "peak MB"):
        table.add_column(title, justify="left" if title in {"device", "processor"} else "right", no_wrap=True)
    for r in rows:
        numbers = (r["milliseconds"], r["std_ms"], r["first_ms"], r["init_ms"], r["peak_mb"])
        cells = [r["device"], "GPU" if r["gpu"] else "CPU", r["threads"] or "–", r["length"] or "–"]
        table.add_row(*map(str, cells), *("–" if x is None else f"{x:.2f}" for x in numbers))
    session.terminal.result_console.print(table)
