"""`plm-export search MODEL`: say what is needed, get the package that meets it best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.commands.caching import cache_options, everywhere, wanted_bytes, wanted_cache
from converter.commands.flags import Flags, output_folder, recipe_table
from converter.commands.session import Session, json_option, quiet_options, refuse_without_ray
from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.search.goal import Goal

EPILOG = """\b
Examples:
  plm-export search ./my-model --calibration train.tsv --eval dev.tsv --max-drop 0.5pt --minutes 30 -o out
  plm-export search ./my-model --target cpu-int8,tflite --calibration train.tsv --latency-ms 2 --size-mb 10
A search that was interrupted goes on where it was when it is started again with the same -o."""


@click.command("search", epilog=EPILOG, short_help="Search for the package that meets a goal best.")
@click.argument("model", required=False)
@click.option("--target", "-t", multiple=True, metavar="NAME", help="Target to search for; repeat, or use commas.")
@click.option("--max-drop", metavar="Xpt", help="Largest allowed drop of the metric: 0.5pt, or 0.005.")
@click.option("--min-agreement", type=float, metavar="P", help="Lowest share of texts with the source's answer.")
@click.option("--latency-ms", type=float, metavar="MS", help="Longest time of one text, one thread, on this machine.")
@click.option("--speedup", type=float, metavar="X", help="At least X times as fast as the plain package of the target.")
@click.option("--size-mb", type=float, metavar="MB", help="Largest size of the model's files.")
@click.option("--minutes", type=float, default=30.0, show_default=True, metavar="N", help="Time for all of it.")
@click.option("--trials", type=click.IntRange(1), metavar="N", help="Try at most N; default: what the time allows.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Packages to keep; default: one for each target.")
@click.option("--calibration", metavar="FILE", help="Text to learn from; a part of it is held back to choose by.")
@click.option("--eval", "evaluation", metavar="FILE", help="Labelled text that is looked at once, at the end.")
@click.option("--without", multiple=True, metavar="NAME", help="Method or precision that is not tried; repeat.")
@click.option("--columns", metavar="text=…,label=…", help="Columns of the data files by name; pair=… is a second text.")
@click.option("--label-map", metavar="FILE", help="What the data calls the model's labels (json, toml, tsv).")
@click.option("--task", metavar="NAME", help="Task, if not the one in the model's configuration.")
@click.option("--revision", metavar="REV", help="Commit, tag or branch of a model on the Hugging Face Hub.")
@click.option("--max-length", type=int, metavar="N", help="Longest text in tokens; at most what the model takes.")
@click.option("--seed", type=int, metavar="N", help="Random seed; default 0.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "nsga2", "random"]),
    default="tpe",
    show_default=True,
    help="What proposes candidates.",
)
@click.option("--ray", metavar="ADDRESS", help="Make trials on the Ray cluster at ADDRESS (extra `ray`): HOST:6379.")
@click.option("--cpus", type=click.IntRange(1), metavar="N", help="With --ray: CPUs of a trial; default 1.")
@cache_options
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the search.")
@click.option("--force", is_flag=True, help="Begin again, and replace what an earlier search has left in DIR.")
@json_option
@quiet_options
@click.pass_obj
def search(
    session: Session,
    /,
    *,
    model: str | None,
    target: tuple[str, ...],
    max_drop: str | None,
    min_agreement: float | None,
    latency_ms: float | None,
    speedup: float | None,
    size_mb: float | None,
    minutes: float,
    trials: int | None,
    keep: int | None,
    calibration: str | None,
    evaluation: str | None,
    without: tuple[str, ...],
    columns: str | None,
    label_map: str | None,
    task: str | None,
    revision: str | None,
    max_length: int | None,
    seed: int | None,
    sampler: str,
    ray: str | None,
    cpus: int | None,
    resume: bool,
    cache: str | None,
    cache_size: str | None,
    output: Path | None,
    force: bool,
) -> int:
    """Search recipes for MODEL until the time is over, and keep the package that meets the goal best.

    Limits are what is given of --max-drop, --min-agreement, --latency-ms, --speedup and --size-mb; what has no limit is
    made as small as it can be. Without limits, the front of metric, time and size is searched.
    """
    flags = Flags(
        model=model,
        target=target,
        output=output,
        calibration=calibration,
        evaluation=evaluation,
        columns=columns,
        label_map=label_map,
        task=task,
        revision=revision,
        max_length=max_length,
        seed=seed,
        resume=resume,
        cache=everywhere(cache),
        cache_size=cache_size,
    )
    refuse_without_ray(ray, {"--cpus": cpus})
    goal = _goal(max_drop, min_agreement, latency_ms, speedup, size_mb)
    wishes = _Wishes(minutes, trials, keep, without, sampler, force, ray, cpus)
    return _run(session, flags, goal, wishes)


@dataclass(frozen=True)
class _Wishes:
    """How long and how to search."""

    minutes: float
    trials: int | None
    keep: int | None
    without: tuple[str, ...]
    sampler: Any
    force: bool
    ray: str | None
    cpus: int | None


def _goal(
    max_drop: str | None, agreement: float | None, latency: float | None, speedup: float | None, size: float | None
) -> "Goal":
    from converter.precision import points
    from converter.search.goal import Goal

    drop = None if max_drop is None else points(max_drop, "--max-drop")
    return Goal(drop, agreement, latency, speedup, size)


def _run(session: Session, flags: Flags, goal: "Goal", wishes: _Wishes) -> int:
    terminal = session.terminal
    if not 0 < wishes.minutes < math.inf:
        raise UsageError(f"wanted a time, found {wishes.minutes:g}", where="--minutes")
    base = recipe_table(flags, session.argv)
    usual = output_folder(flags, str(base.get("model", "model")))
    out = flags.output or usual.with_name(f"{usual.name.removesuffix('-export')}-search")
    with terminal.hushed():
        from converter.search.run import Order
        from converter.search.run import search as run_search

        terminal.say(f"Searching for {wishes.minutes:g} minutes, into {out}/")
        progress = terminal.progress()
        cached = wanted_cache(flags.cache, flags.cache_size, progress.note, resume=flags.resume)
        order = Order(
            base,
            goal,
            wishes.minutes,
            wishes.keep,
            wishes.without,
            wishes.sampler,
            wishes.trials,
            wishes.ray,
            wishes.cpus or 1,
            flags.cache,
            cached,
            wanted_bytes(flags.cache_size),
        )
        with progress.task("Searching for the best package"):
            table = run_search(order, out, force=wishes.force, progress=progress)
        if terminal.json:
            session.print_json(table)
        else:
            _show(session, table)
    return int(table["exit_code"])


def _show(session: Session, table: Mapping[str, Any]) -> None:
    from rich.table import Table

    from converter.search.report import caution, quality_name, quality_text, verdict
    from converter.search.space import described

    drawn = Table(box=None, pad_edge=False)
    for title in ("package", quality_name(table), "ms", "× plain", "MB", "gate", "recipe"):
        drawn.add_column(title, justify="left" if title in {"package", "gate", "recipe"} else "right")
    for one in table["finalists"]:
        found = one["figures"]
        cells = (
            [quality_text(table, found), *(f"{found[k]:.2f}" for k in ("milliseconds", "speedup", "megabytes"))]
            if found
            else [""] * 4
        )
        drawn.add_row(
            one["folder"] or f"({one['name']})", *cells, one["status"].replace("_", " "), described(one["recipe"])
        )
    terminal = session.terminal
    terminal.result_console.print(drawn)
    status, said = verdict(table)
    terminal.result(f"\n{said}")
    if warned := caution(table):
        terminal.result(warned)
    terminal.result(f"report: {Path(str(table['out'])) / 'report.html'}")
    winner = table["finalists"][0] if table["finalists"] else None
    if status != "PASS" and winner and winner["reason"]:
        terminal.error(f"{winner['target']}: {winner['reason']}", "")
