"""One job in a process of its own: what both engines run, here and on a worker."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.bounds.exhausted import exhausted
from converter.errors import INTERRUPTED_EXIT_CODE, ExportError, UsageError
from converter.fleet.outcome import Outcome

SECONDS_TO_CLEAN_UP = 20.0
"""After SIGTERM a run removes what it has half made; then it is killed."""
SECONDS_BETWEEN_LOOKS = 0.2
LOST = -1
"""The exit code of a job whose worker has gone."""
TAIL = 400
PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of `prctl` on Linux."""


@dataclass(frozen=True)
class Order:
    """What a process is told. Everything in it is plain, so that it can travel."""

    name: str
    recipe: Mapping[str, Any]
    flags: tuple[str, ...] = ()
    """Of `plm-export export`: `--force`, `--require-device`."""
    threads: int | None = None
    """For the numeric libraries; None: their own choice."""


def run_order(order: Order, out: Path, logs: Path, stopped: Callable[[], bool] = lambda: False) -> Outcome:
    """Run a job to its end and tell how it came out; what it said is in `logs/NAME.log`.

    `out` is the job's own output folder. When `stopped` says so the process is asked to end, and given time to clean
    up.
    """
    import tomli_w

    logs.mkdir(parents=True, exist_ok=True)
    recipe, log, said = (logs / f"{order.name}{end}" for end in (".toml", ".log", ".json"))
    recipe.write_text(tomli_w.dumps(dict(order.recipe)), encoding="utf-8")
    words = ["export", "--recipe", str(recipe.absolute()), "-o", str(out.absolute()), "--json", *order.flags]
    started = time.monotonic()
    with log.open("wb") as errors, said.open("wb") as result:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", "converter.commands.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=errors,
            env=_environment(order.threads),
            start_new_session=True,  # Ctrl-C reaches us alone, and we tell each job once
            preexec_fn=_ends_with(os.getpid()),  # noqa: PLW1509 - a call of the kernel, and nothing that takes a lock
        )
        try:
            code = _wait(process, stopped)
        except BaseException:
            _end(process)
            raise
    seconds = time.monotonic() - started
    return _outcome(order, code, seconds, _document(said), log)


def failed(order: Order, error: Exception) -> Outcome:
    """Return the outcome of a job that this machine could not run, or not keep what was made of it."""
    known = error if isinstance(error, ExportError) else exhausted(error) or UsageError(str(error))
    model = str(order.recipe.get("model", "sample:default"))
    return Outcome(order.name, model, known.exit_code, 0.0, error=str(known), hint=known.hint)


def _environment(threads: int | None) -> dict[str, str]:
    import converter

    made = dict(os.environ)
    root = str(Path(converter.__file__).parents[1])
    made["PYTHONPATH"] = os.pathsep.join(filter(None, (root, made.get("PYTHONPATH"))))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if threads else ():
        made.setdefault(name, str(threads))
    return made


def _ends_with(parent: int) -> Callable[[], None] | None:
    """Return what has a new process told to end when its parent is killed: nobody is left who would wait for it."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)

    def tell() -> None:
        library.prctl(PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
        if os.getppid() != parent:  # it was killed just now
            os._exit(INTERRUPTED_EXIT_CODE)

    return tell


def _wait(process: "subprocess.Popen[bytes]", stopped: Callable[[], bool]) -> int:
    while True:
        try:
            return process.wait(timeout=SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            if stopped():
                _end(process)
                return INTERRUPTED_EXIT_CODE


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_CLEAN_UP), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
            return


def _document(said: Path) -> dict[str, Any]:
    """Return the JSON document that the run has printed; empty where it was cut short."""
    try:
        found = json.loads(said.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    finally:
        said.unlink(missing_ok=True)
    return found if isinstance(found, dict) else {}


def _outcome(order: Order, code: int, seconds: float, document: Mapping[str, Any], log: Path) -> Outcome:
    model = str(order.recipe.get("model", "sample:default"))
    if "targets" in document:
        # It says how it came out when all is in place: what ends the process after that takes nothing back.
        told = code if code >= 0 else int(document.get("exit_code", 1))
        return Outcome(order.name, model, told, seconds, report=document)
    error = document.get("error") or {}
    if code < 0:
        message = f"its process was ended by {_signal_name(-code)}"
        hint = "out of memory? try fewer --jobs" if code == -signal.SIGKILL else f"see {log}"
        return Outcome(order.name, model, LOST, seconds, error=message, hint=hint)
    message = error.get("message") or _tail(log) or f"it ended with exit code {code}"
    return Outcome(order.name, model, code, seconds, error=message, hint=error.get("hint") or f"see {log}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return " ".join(log.read_text(encoding="utf-8", errors="replace")[-TAIL:].split())
    return ""
