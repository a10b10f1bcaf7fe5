"""`plm-export bench PACKAGE`: how fast a package is on this machine, alone or beside its source."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from converter.commands.device_table import take_results
from converter.commands.foreign import held
from converter.commands.session import Session, json_option, limit_options, quiet_options
from converter.commands.verify import packages_in
from converter.errors import UsageError
from converter.timing.cold_start import cold_start

if TYPE_CHECKING:
    from converter.commands.terminal import Terminal
    from converter.timing.comparison import Entry

EXTRA = {"× float32": "faster_than_float32", "load ms": "load_ms", "first ms": "first_ms", "peak MB": "peak_mb"}
LENGTHS = (16, 32, 64, 128)
TIMING = ("lengths", "threads", "batch", "seconds", "source", "cold", "tokens", "profile")
WRITING = {
    "tokens/s": "tokens_per_second",
    "ms/token": "milliseconds",
    "first token ms": "first_token_ms",
    "prompt ms/token": "prefill_ms",
    "cache MB": "cache_mb",
}
"""Columns of models that write text."""


@click.command("bench", short_help="Measure the latency of a package by sequence length and threads.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--lengths", metavar="N,N,…", help="Sequence lengths in tokens; default: the file's own, or 16,32,64,128."
)
@click.option(
    "--tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens that a model writes after a prompt."
)
@click.option("--threads", default="1", show_default=True, metavar="N,N,…", help="Thread counts.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size: texts per call.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Seconds per measurement."
)
@click.option(
    "--source", metavar="MODEL", help="Also measure MODEL in PyTorch and as a float32 ONNX file, for comparison."
)
@click.option("--cold", is_flag=True, help="Also measure load time, first call and peak memory, each in a new process.")
@click.option("--profile", is_flag=True, help="Also show where the time of a token goes, by kind of operator (ONNX).")
@click.option(
    "--import",
    "results",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RESULT",
    help="Import the output of LiteRT's benchmark_model from a device into the report.",
)
@click.option("--device", metavar="NAME", help='With --import: name of the device, such as "Pixel 9".')
@limit_options()
@json_option
@quiet_options
@click.pass_obj
def bench(
    session: Session,
    package: Path,
    lengths: str | None,
    tokens: int,
    threads: str,
    batch: int,
    seconds: float,
    source: str | None,
    cold: bool,  # noqa: FBT001 - click's signature
    profile: bool,  # noqa: FBT001
    results: tuple[Path, ...],
    device: str | None,
    max_memory: int | None,
    timeout: float | None,
) -> int:
    """Measure the latency of PACKAGE, or of every package in an output folder: median and 10th to 90th percentile.

    Of a model that writes text: tokens a second after a prompt of each length, the time until the first one, and what
    the cache takes.

    Packages are run in turn, so other load on the machine slows all of them alike.
    """
    _refuse_unused(results=bool(results))
    if results:
        return _take(session, package, results, device)
    from converter.timing.comparison import package_entry, source_entries

    counts = _whole(threads, "--threads")
    wanted = _whole(lengths, "--lengths") if lengths else ()
    terminal = session.terminal
    with (
        terminal.hushed(),
        tempfile.TemporaryDirectory(prefix="plm-export-") as work,
        held(session, package, max_memory, timeout),
    ):
        rows = []
        folders = packages_in(package)
        with terminal.progress().task("Measuring", total=len(counts)) as ticker:
            for n in counts:
                entries = [package_entry(folder, n) for folder in folders]
                entries += source_entries(source, Path(work), n) if source is not None else []
                rows += measure(entries, folders, wanted, batch, seconds, n, cold=cold, tokens=tokens)
                ticker.advance()
        if profile:
            _add_profiles(rows, folders, tokens)
        if terminal.json:
            session.print_json(rows)
        else:
            _show(rows, terminal)
    return 0


def _add_profiles(rows: list[dict[str, Any]], folders: list[Path], tokens: int) -> None:
    from converter.timing.operators import operator_times

    known = {folder.name: folder for folder in folders}
    for row in rows:
        if row["package"] in known:
            row["operators_ms"] = operator_times(known[row["package"]], row["length"], tokens, row["threads"])


def _refuse_unused(*, results: bool) -> None:
    """A flag that changes nothing is a mistake: say so rather than time, or import, something else."""
    ctx = click.get_current_context()
    typed = [
        param.opts[0]
        for param in ctx.command.params
        if param.name in TIMING and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]
    if results and typed:
        raise UsageError(
            "has no effect with --import", where=typed[0], hint=f"leave out {' and '.join(typed)}, or --import"
        )
    if not results and ctx.params["device"] is not None:
        raise UsageError("is used with --import only", where="--device", hint="add --import RESULT, or leave it out")


def _take(session: Session, package: Path, results: tuple[Path, ...], device: str | None) -> int:
    from converter.device.device_results import known_results

    package = _only_package(package)
    code = take_results(session, package, results, device)
    rows = known_results(package)
    # Nothing but the length ties these to the package.
    if unsized := sum(row["model_mb"] is None for row in rows):
        session.terminal.say(f"{unsized} of {len(rows)} do not state the model size: assumed to be of this package")
    return code


def _only_package(folder: Path) -> Path:
    """Return the package of an output folder that holds one: a result was measured with one file."""
    inside = packages_in(folder)
    if len(inside) > 1:
        raise UsageError(
            f"the folder holds {len(inside)} packages; a result belongs to one",
            where=str(folder),
            hint=f"name it: {inside[0]}",
        )
    return inside[0]


def measure(
    entries: "list[Entry]",
    folders: list[Path],
    lengths: tuple[int, ...],
    batch: int,
    seconds: float,
    threads: int,
    *,
    cold: bool = False,
    tokens: int = 32,
) -> list[dict[str, Any]]:
    """Return one row a package and length: milliseconds, how far they spread, and texts a second.

    Of models that write text: `tokens` of them after a prompt of this length. `cold`: and what
    `converter.timing.cold_start` measures.

    Raises:
        UsageError: a file takes no such batch or length.

    """
    from converter.timing.comparison import time_beside
    from converter.timing.writing import time_writing, writes

    rows = []
    writing = writes(entries[0].specs)
    for length in lengths or _lengths(entries, folders, tokens if writing else 0):
        if writing:
            made = time_writing(entries, batch, length, seconds, tokens)
        else:
            made = time_beside(entries, batch, length, seconds)
        for folder, row in zip(folders, made, strict=False):
            row.update(cold_start(folder, threads, length, batch) if cold else {})
        rows += [{"threads": threads, "batch": batch, "length": length, **row} for row in made]
    return rows


def _lengths(entries: "list[Entry]", folders: list[Path], tokens: int = 0) -> tuple[int, ...]:
    """Return the files' own lengths, else some usual ones and those of the text that the packages were proven on.

    Behind each there is room for `tokens`.
    """
    from converter.package.manifest import read_manifest

    own = sorted({n for e in entries for n in e.lengths})
    longest = min((max(e.lengths) for e in entries if e.lengths), default=None)
    manifests = [read_manifest(folder) for folder in folders]
    longest = min([*(m["max_length"] for m in manifests if "max_length" in m), *([longest] if longest else [])])
    facts = [m["gate"].get("facts", {}).get("speed", {}) for m in manifests]
    seen = [f[key] for f in facts for key in ("tokens_p50", "tokens_p90") if key in f]
    longest = max(1, longest - tokens)
    return tuple(n for n in own or sorted({*LENGTHS, *seen}) if n <= longest) or (longest,)


def _whole(text: str, where: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"wanted whole numbers above 0, found {text!r}", where=where, hint=f"{where} 1,2")
    return tuple(int(part) for part in parts)


def _show(rows: list[dict[str, Any]], terminal: "Terminal") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    extra = [(t, k) for t, k in EXTRA.items() if rows and k in rows[0]]
    writing = bool(rows) and "tokens_per_second" in rows[0]
    own = ("prompt", *WRITING) if writing else ("tokens", "median ms", "10 % … 90 %", "texts/s")
    for title in ("package", "threads", "batch", *own, *dict(extra)):
        table.add_column(title, justify="left" if title == "package" else "right", no_wrap=True)
    for r in rows:
        measured = [_number(r[key]) for key in WRITING.values()] if writing else _encoder_cells(r)
        cells = (r["threads"], r["batch"], r["length"], *measured)
        table.add_row(r["package"], *map(str, cells), *(_number(r.get(key)) for _, key in extra))
    terminal.result_console.print(table)
    for r in rows:
        if r.get("operators_ms"):
            parts, whole = r["operators_ms"], sum(r["operators_ms"].values()) or 1.0
            shares = ", ".join(f"{name} {ms / whole:.0%}" for name, ms in parts.items())
            terminal.result(f"{r['package']} behind {r['length']} tokens, {r['threads']} thread(s): {shares}")
        if r.get("not_worth_it"):
            terminal.result(f"{r['package']} at {r['length']} tokens: {r['not_worth_it']}")


def _encoder_cells(row: dict[str, Any]) -> tuple[str, str, str]:
    spread = f"{row['p10']:.2f} … {row['p90']:.2f}"
    return f"{row['milliseconds']:.2f}", spread, str(row["texts_per_second"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
