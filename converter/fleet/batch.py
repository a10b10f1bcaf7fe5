"""A batch: every job in its own process, one table at the end. One that fails never stops the others."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from converter.errors import ExportError, ResourceLimit, UsageError
from converter.fleet.inputs import Known, Read, forget, inputs_of, record, was_made_of
from converter.fleet.jobs import Job
from converter.fleet.outcome import JSON_FILE, LOGS, Outcome, batch_table
from converter.fleet.process import LOST, Order, failed, run_order
from converter.fleet.reports import write_batch_reports
from converter.jsonfile import read_json
from converter.package.manifest import check_files, read_manifest
from converter.recipe import bind_recipe, load_recipe_table, recipe_table
from converter.report.beside import MOST_BYTES
from converter.report.summary import JSON_FILE as REPORT
from converter.stage import SILENT, Progress

TRIES = 2
"""A job whose worker was lost is tried once more."""


class Engine(Protocol):
    """Where jobs run."""

    def run(self, orders: Sequence[Order], out: Path) -> Iterator[Outcome]:
        """Run every order into `out/NAME` and yield each as it ends. Closing the iterator ends what still runs."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """`jobs` processes at a time on this machine."""

    jobs: int = 1

    def run(self, orders: Sequence[Order], out: Path) -> Iterator[Outcome]:
        stop = threading.Event()
        threads = max(1, (os.cpu_count() or 1) // self.jobs) if self.jobs > 1 else None

        def one(order: Order) -> Outcome:
            if stop.is_set():  # it had not begun
                return Outcome(order.name, "", LOST, 0.0, error="interrupted")
            try:
                return run_order(replace(order, threads=threads), out / order.name, out / LOGS, stop.is_set)
            except OSError as error:  # a full disk, or no room for one process more
                return failed(order, error)

        with ThreadPoolExecutor(self.jobs) as pool:
            waiting: dict[Future[Outcome], tuple[Order, int]] = {pool.submit(one, o): (o, 1) for o in orders}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        order, tries = waiting.pop(future)
                        outcome = future.result()
                        if outcome.exit_code == LOST and tries < TRIES:
                            waiting[pool.submit(one, order)] = (order, tries + 1)
                        else:
                            yield ended(replace(outcome, tries=tries))
            finally:
                stop.set()


def ended(outcome: Outcome) -> Outcome:
    """Return an outcome with the exit code of a batch for a process that was killed: mostly for want of memory."""
    return replace(outcome, exit_code=ResourceLimit.exit_code) if outcome.exit_code == LOST else outcome


def run_batch(
    jobs: Sequence[Job],
    out: Path,
    engine: Engine,
    *,
    force: bool = False,
    require_device: bool = False,
    cache: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run all jobs, write the reports into `out`, and return the table of `batch_table`.

    A job that an earlier batch in `out` has made by the same recipe from the same files, and that passed, is kept and
    not run again; `force` runs it again, and so does `require_device` one that was not checked on its device. `cache`:
    folder or URL from which jobs take what stages have made before, on every machine.

    Raises:
        UsageError: `out` holds something that no batch has made.

    """
    before = _prepare(out)
    (out / LOGS).mkdir(exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    orders = []
    flags = (*(["--force"] if force else []), *(["--require-device"] if require_device else []))
    flags = (*flags, "--cache", cache) if cache else flags
    refused = {job.name: outcome for job in jobs if (outcome := _refused(job)) is not None}
    made_of = _inputs_of_all([job for job in jobs if job.name not in refused], progress)
    for job in jobs:
        outcome = refused.get(job.name) or (None if force else _kept(job, out, before, made_of[job.name]))
        if require_device and outcome is not None and _unchecked(outcome):
            outcome = None
        if outcome is None:
            forget(job.name, out / LOGS)
            # What stands there is of another recipe, or failed: this tool's marker decides whether it is replaced.
            again = () if force or job.name not in before else ("--force",)
            orders.append(Order(job.name, dict(job.recipe), (*flags, *again)))
        else:
            outcomes[job.name] = outcome
            progress.note(_line(outcome))
    try:
        with progress.task("Running jobs", total=len(orders)) as bar:
            for outcome in engine.run(orders, out):
                outcomes[outcome.name] = outcome
                if outcome.exit_code == 0:  # of one that failed, what an earlier batch made may still be there
                    record(outcome.name, out / LOGS, made_of[outcome.name])
                progress.note(_line(outcome))
                bar.advance()
    finally:
        # What is done is told of even where the batch is interrupted.
        table = batch_table([outcomes[job.name] for job in jobs if job.name in outcomes], out)
        write_batch_reports(table, out)
    return table


def _prepare(out: Path) -> dict[str, Any]:
    """Make `out`, or read what an earlier batch left in it: its jobs by name."""
    if not out.exists():
        out.mkdir(parents=True)
    if not out.is_dir():
        raise UsageError("this is not a folder", where=str(out), hint="choose another -o")
    file = out / JSON_FILE
    if not file.exists():
        if any(p.name != LOGS for p in out.iterdir()):
            raise UsageError(
                "the folder holds files that are not of a batch", where=str(out), hint="choose an empty or new -o"
            )
        return {}
    try:
        jobs = read_json(file, limit=MOST_BYTES)["jobs"]
        return {str(job["name"]): job for job in jobs}
    except (ExportError, KeyError, TypeError):
        raise UsageError(
            f"{JSON_FILE} there is not of a batch", where=str(out), hint="choose an empty or new -o"
        ) from None


def _refused(job: Job) -> Outcome | None:
    """Return the outcome of a job whose recipe is wrong; it is told before anything runs."""
    try:
        bind_recipe(job.recipe, where=f"job {job.name}")
    except (ExportError, OSError) as given:
        # A path that no file can have, such as one of 300 characters.
        error = given if isinstance(given, ExportError) else UsageError(str(given), where=f"job {job.name}")
        model = str(job.recipe.get("model", ""))
        return Outcome(job.name, model, error.exit_code, 0.0, error=str(error), hint=error.hint)
    return None


def _inputs_of_all(jobs: Sequence[Job], progress: Progress) -> dict[str, dict[str, Read] | None]:
    made: dict[str, dict[str, Read] | None] = {}
    known: Known = {}
    with progress.task("Reading what jobs are made of", total=len(jobs)) as bar:
        for job in jobs:
            made[job.name] = inputs_of(job, known)
            bar.advance()
    return made


def _kept(job: Job, out: Path, before: dict[str, Any], made_of: dict[str, Read] | None) -> Outcome | None:
    """Return the outcome of a job that an earlier batch has made; None where it is to be run.

    It was made by the same recipe of the same files, by this version, and its packages are as they were sealed.
    """
    found = before.get(job.name)
    if found is None or found.get("exit_code") != 0:
        return None
    try:
        asked = load_recipe_table(out / LOGS / f"{job.name}.toml")
        report = read_json(out / job.name / REPORT, limit=MOST_BYTES)
        # Compared as bound: an explicit default is no other recipe.
        equal = recipe_table(bind_recipe(asked)) == recipe_table(bind_recipe(job.recipe))
        equal = equal and was_made_of(job.name, out / LOGS, made_of)
        for target in report["targets"] if equal else ():
            check_files(folder := out / job.name / str(target["folder"]), read_manifest(folder))
    except (KeyError, TypeError, OSError, ExportError):
        return None
    if not equal:
        return None
    return Outcome(
        job.name, str(found["model"]), 0, float(found["seconds"]), report=report, where=str(found["where"]), kept=True
    )


def _unchecked(outcome: Outcome) -> bool:
    """Tell whether a package was not checked on its device, which a run that requires it would have refused."""
    targets = outcome.report["targets"] if outcome.report else ()
    checks = [check for target in targets for check in (target["evaluation"] or {}).get("checks", ())]
    return any(check["name"] == "device" and check["status"] == "NOT_RUN" for check in checks)


def _line(outcome: Outcome) -> str:
    said = {"PASS": "passed", "FAIL": "failed its gate", "NOT_RUN": "could not be judged", "ERROR": "made nothing"}
    line = f"{outcome.name}: {said[outcome.status]}"
    if outcome.kept:
        return f"{line} (made by an earlier batch, kept)"
    line += f" in {outcome.seconds:.0f} s" if outcome.seconds else ""
    return f"{line}: {outcome.error}" if outcome.error else line
