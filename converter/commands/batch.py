"""`plm-export batch JOBS`: many models, each in its own process."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.commands.caching import everywhere
from converter.commands.session import Session, json_option, quiet_options, refuse_without_ray
from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.fleet.batch import Engine
    from converter.fleet.jobs import Job

EPILOG = """\b
A job file:
  [defaults]                        # keys of a recipe, for all jobs
  targets = ["cpu-int8", "tflite"]
  [[job]]
  name = "reviews"
  model = "./reviews"
  eval = "reviews-dev.tsv"
  [matrix]                          # every model with every recipe
  models = ["./a", "./b"]
  recipes = ["plain.toml", "half.toml"]"""


@click.command("batch", epilog=EPILOG, short_help="Export many models, each in its own process.")
@click.argument("jobs_file", metavar="[JOBS.toml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--models", type=click.Path(path_type=Path), metavar="DIR", help="Every model folder in DIR, without JOBS."
)
@click.option("--recipe", multiple=True, metavar="FILE", help="Recipe for --models; repeat for several.")
@click.option("--target", "-t", multiple=True, metavar="NAME", help="Target for --models; repeat for several.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Output folder of the batch."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="How many run at the same time.")
@click.option("--ray", metavar="ADDRESS", help="Run on the Ray cluster at ADDRESS (extra `ray`), such as HOST:6379.")
@click.option(
    "--share", metavar="URL", help="With --ray: workers leave packages at URL (fsspec) instead of sending them here."
)
@click.option("--cpus", type=click.IntRange(1), metavar="N", help="With --ray: CPUs that a job takes; default 1.")
@click.option("--gpus", type=click.FloatRange(0), metavar="N", help="With --ray: GPUs that a job takes; default 0.")
@click.option("--force", is_flag=True, help="Run jobs again that an earlier batch in DIR has made.")
@click.option(
    "--cache", metavar="PLACE", help="Folder or URL (fsspec) from which all jobs take what stages have made before."
)
@click.option("--require-device", is_flag=True, help="Fail a job whose target device is not available for the check.")
@json_option
@quiet_options
@click.pass_obj
def batch(
    session: Session,
    /,
    *,
    jobs_file: Path | None,
    models: Path | None,
    recipe: tuple[str, ...],
    target: tuple[str, ...],
    output: Path,
    jobs: int,
    ray: str | None,
    share: str | None,
    cpus: int | None,
    gpus: float | None,
    force: bool,
    cache: str | None,
    require_device: bool,
) -> int:
    """Run every job of JOBS.toml, or every model of --models with every --recipe, each in its own process.

    One that fails never stops the others. A second call into the same DIR runs what failed or has changed. The exit
    code is that of the worst job.
    """
    terminal = session.terminal
    refuse_without_ray(ray, {"--share": share, "--cpus": cpus, "--gpus": gpus})
    with terminal.hushed():
        from converter.fleet.batch import run_batch

        found = _jobs(jobs_file, models, recipe, target)
        engine = _engine(jobs, ray, share, cpus or 1, gpus or 0.0)
        terminal.say(f"{len(found)} job{'s' if len(found) != 1 else ''} into {output}/")
        table = run_batch(
            found,
            output,
            engine,
            force=force,
            require_device=require_device,
            cache=everywhere(cache),
            progress=terminal.progress(),
        )
        if terminal.json:
            session.print_json(table)
        else:
            _show(table, session)
    return int(table["exit_code"])


def _jobs(
    file: Path | None, models: Path | None, recipes: tuple[str, ...], targets: tuple[str, ...]
) -> "tuple[Job, ...]":
    from converter.fleet.jobs import jobs_of_folder, read_jobs

    if (file is None) == (models is None):
        raise UsageError("give a job file, or --models DIR", hint="plm-export batch jobs.toml -o OUT")
    if file is not None and (recipes or targets):
        raise UsageError(
            "a job file names its own recipes and targets", where="--recipe", hint="[defaults] in the file"
        )
    return read_jobs(file) if file is not None else jobs_of_folder(models or Path(), recipes, targets)


def _engine(jobs: int, address: str | None, share: str | None, cpus: int, gpus: float) -> "Engine":
    if address is None:
        from converter.fleet.batch import LocalEngine

        return LocalEngine(jobs)
    from converter.fleet.ray_cluster import RayEngine

    return RayEngine(address, share=share, cpus=cpus, gpus=gpus)


def _show(table: Mapping[str, Any], session: Session) -> None:
    from rich.table import Table

    from converter.fleet.outcome import PAGE_FILE
    from converter.report import words

    drawn = Table(box=None, pad_edge=False)
    for title in ("job", "package", "size", "latency", "agreement", "verdict"):
        drawn.add_column(title, justify="right" if title in {"size", "latency", "agreement"} else "left")
    for job in table["jobs"]:
        for package in job["packages"]:
            drawn.add_row(
                job["name"],
                f"{package['target']} ({package['precision']})",
                words.size(package["size_bytes"]),
                words.milliseconds(package["milliseconds"]),
                words.share(package["agreement"]),
                package["status"].replace("_", " "),
            )
        if not job["packages"]:
            drawn.add_row(job["name"], "", "", "", "", job["status"])
    session.terminal.result_console.print(drawn)
    session.terminal.result(f"\nreport: {Path(table['out']) / PAGE_FILE}")
    for job in table["jobs"]:
        missed = [(said, None) for said in job["budgets_missed"]]
        for error, hint in [(job["error"], job["hint"]), *missed, *((p["error"], p["hint"]) for p in job["packages"])]:
            if error:
                session.terminal.error(f"{job['name']}: {error}", hint or "")
