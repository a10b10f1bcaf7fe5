"""`plm-export bench PACKAGE`: how fast a package is on this machine, without its source."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cold_start import cold_start
from converter.commands.device_table import take_results
from converter.commands.session import Session, json_option, quiet_options
from converter.commands.verify import packages_in
from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.target import Runner
    from converter.terminal import Terminal

COLD = {"load ms": "load_ms", "first ms": "first_ms", "peak MB": "peak_mb"}
LENGTHS = (16, 32, 64, 128)
WARM_UP_RUNS = 3
LEAST_RUNS = 10


@click.command("bench", short_help="Time a package by length and threads.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--lengths", metavar="N,N,…", help="Lengths in tokens; default: the file's own, or 16,32,64,128.")
@click.option("--threads", default="1", show_default=True, metavar="N,N,…", help="Thread counts.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Texts at once.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Time a measurement.")
@click.option("--cold", is_flag=True, help="Load time, first call and peak memory too, each in a fresh process.")
@click.option(
    "--import",
    "results",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RESULT",
    help="Time nothing here: take what benchmark_model printed on a device into the report.",
)
@click.option("--device", metavar="NAME", help="With --import: the device it was printed on.")
@json_option
@quiet_options
@click.pass_obj
def bench(
    session: Session,
    package: Path,
    lengths: str | None,
    threads: str,
    batch: int,
    seconds: float,
    cold: bool,  # noqa: FBT001 - click's signature
    results: tuple[Path, ...],
    device: str | None,
) -> int:
    """Time PACKAGE (or every package of an output folder): the median, and how far runs spread."""
    if results:
        return take_results(session, package, results, device)
    counts = _whole(threads, "--threads")
    wanted = _whole(lengths, "--lengths") if lengths else ()
    terminal = session.terminal
    with terminal.hushed():
        rows = []
        progress = terminal.progress()
        for folder in packages_in(package):
            with progress.task(f"Timing {folder.name}", total=len(counts)) as ticker:
                for n in counts:
                    rows += measure(folder, n, wanted, batch, seconds, cold=cold)
                    ticker.advance()
        if terminal.json:
            session.print_json(rows)
        else:
            _show(rows, terminal)
    return 0


def measure(
    folder: Path, threads: int, lengths: tuple[int, ...], batch: int, seconds: float, *, cold: bool = False
) -> list[dict[str, Any]]:
    """Return one row a length: milliseconds at the median, the 10th and the 90th percentile, and texts a second.

    `cold`: and what `converter.cold_start` measures.

    Raises:
        PackageDamaged: `folder` is no package.
        UsageError: the file takes no such batch or length.

    """
    from converter.api import open_package

    runner = open_package(folder, threads=threads)
    if runner.max_batch is not None and batch > runner.max_batch:
        raise UsageError(f"the file takes at most {runner.max_batch} text(s) at once", where="--batch")
    rows = []
    for length in lengths or _lengths(runner, folder):
        times = _time(runner, feed(runner, folder, batch, length), seconds)
        rows.append({"package": folder.name, "threads": threads, "batch": batch, "length": length, **_summary(times)})
        rows[-1]["texts_per_second"] = round(1000 * batch / rows[-1]["milliseconds"], 1)
        if cold:
            rows[-1] |= cold_start(folder, threads, length, batch)
    return rows


def _lengths(runner: "Runner", folder: Path) -> tuple[int, ...]:
    longest = _config(folder, "tokenizer_config.json").get("model_max_length", LENGTHS[-1])
    return runner.lengths or tuple(n for n in LENGTHS if n <= longest) or (longest,)


def _config(folder: Path, name: str) -> dict[str, Any]:
    found = json.loads((folder / name).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def feed(runner: "Runner", folder: Path, batch: int, length: int) -> Any:
    """Return random ids: latency of a dense model depends on how many there are, not on which."""
    import numpy as np

    if runner.lengths and length > max(runner.lengths):
        raise UsageError(f"the file takes at most {max(runner.lengths)} tokens", where="--lengths")
    vocabulary = int(_config(folder, "config.json").get("vocab_size", 2))
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length), dtype=np.int64)
    fill = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {spec.name: fill.get(spec.name, np.zeros_like(ids)) for spec in runner.inputs}


def _time(runner: "Runner", feed: Any, seconds: float) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        runner.run(feed)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        runner.run(feed)
        times.append(1000 * (time.perf_counter() - started))
    return times


def _summary(times: list[float]) -> dict[str, Any]:
    import numpy as np

    low, middle, high = (float(x) for x in np.percentile(times, (10, 50, 90)))
    return {"milliseconds": round(middle, 3), "p10": round(low, 3), "p90": round(high, 3), "runs": len(times)}


def _whole(text: str, where: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"wanted whole numbers above 0, found {text!r}", where=where, hint=f"{where} 1,2")
    return tuple(int(part) for part in parts)


def _show(rows: list[dict[str, Any]], terminal: "Terminal") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    extra = [(t, k) for t, k in COLD.items() if rows and k in rows[0]]
    for title in ("package", "threads", "batch", "tokens", "median ms", "10 % … 90 %", "texts/s", *dict(extra)):
        table.add_column(title, justify="left" if title == "package" else "right", no_wrap=True)
    for r in rows:
        spread = f"{r['p10']:.2f} … {r['p90']:.2f}"
        cells = (r["threads"], r["batch"], r["length"], f"{r['milliseconds']:.2f}", spread, r["texts_per_second"])
        table.add_row(r["package"], *map(str, cells), *(f"{r[key]:.1f}" for _, key in extra))
    terminal.result_console.print(table)
