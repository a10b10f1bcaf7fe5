"""The command line: parse, run, and turn every way to end into one line and one exit code."""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import click
from click_default_group import DefaultGroup

import converter
from converter.bounds.exhausted import exhausted
from converter.bounds.watch import Stopped
from converter.commands.batch import batch
from converter.commands.bench import bench
from converter.commands.diff import diff
from converter.commands.doctor import doctor
from converter.commands.explain import explain
from converter.commands.export import export, refuse_misspelled_command
from converter.commands.inspect import inspect
from converter.commands.listing import describe, list_names
from converter.commands.plan import plan
from converter.commands.rebuild import rebuild
from converter.commands.run import run as run_package
from converter.commands.search import search
from converter.commands.session import Session
from converter.commands.sign import sign
from converter.commands.terminal import Terminal
from converter.commands.verify import verify
from converter.errors import (
    BUG_CODE,
    INTERRUPTED_CODE,
    INTERRUPTED_EXIT_CODE,
    ExportError,
    UsageError,
)

BUG_EXIT_CODE = 1
SECONDS_TO_CLEAN_UP = 5.0
COMMANDS = (
    export,
    search,
    batch,
    plan,
    verify,
    sign,
    rebuild,
    run_package,
    inspect,
    explain,
    diff,
    bench,
    list_names,
    describe,
    doctor,
)

# Read by libraries at their import, so set before any: no telemetry, no bars, no banners. A user's own setting wins.
ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GLOG_minloglevel": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # its rounding differs from machine to machine
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

EPILOG = """\b
Exit codes:
  0  all packages exported and passed   5  a target's runtime is not installed
  2  wrong usage or recipe              6  a package is damaged
  3  a package failed its gate          7  out of memory, disk space or time
  4  the model was refused            130  interrupted
  1  internal error (a bug)
`plm-export MODEL …` is short for `plm-export export MODEL …`; its flags: `plm-export export --help`."""

SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.group(cls=DefaultGroup, default="export", context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(converter.__version__, prog_name="plm-export")
def cli() -> None:
    """Prune, distill, quantize and export language models from PyTorch to TFLite and ONNX.

    Every exported file is run in its own runtime and compared with the source model before it is packaged.

    \b
    plm-export MODEL --target tflite --target cpu-int8 --target ort-gpu -o OUT
    """  # noqa: D301 - click reads \b


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run as `plm-export`."""
    code = run(sys.argv[1:], Terminal(owns_process=True))
    if code == INTERRUPTED_EXIT_CODE:
        # Everything is removed by now; threads of C++ libraries that were cut short may abort an orderly exit.
        os._exit(code)
    sys.exit(code)


def run(argv: Sequence[str], terminal: Terminal | None = None) -> int:
    """Run one command line; returns its exit code. Never raises."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # `--seq_len` is `--seq-len`: of a flag only, never of its value.
    words = [w.replace("_", "-", w.partition("=")[0].count("_")) if w.startswith("--") else w for w in argv]
    session = Session(terminal or Terminal(), words, commands=tuple(c.name or "" for c in COMMANDS))
    with _signals() as interrupted:
        try:
            if words and words[0] not in session.commands and not words[0].startswith("-"):
                refuse_misspelled_command(words[0], session.commands)
            return int(cli.main(words or ["--help"], prog_name="plm-export", standalone_mode=False, obj=session) or 0)
        except BaseException as error:  # noqa: BLE001 - the last frame: everything ends here as a code
            if limit_of(error) is None and (interrupted or isinstance(error, (KeyboardInterrupt, click.Abort))):
                return _interrupted(session)
            return _report(session, error)


def _report(session: Session, error: BaseException) -> int:
    """Say what went wrong, to people on stderr and with `--json` to machines on stdout too."""
    if isinstance(error, SystemExit):  # click leaves this way when stdout is closed
        return int(error.code or 0)
    terminal = session.terminal
    known = as_deliberate(error)
    if known is None:
        code, message = BUG_EXIT_CODE, f"internal error (bug): {type(error).__name__}: {error}"
        full_code = BUG_CODE
        hint = "" if terminal.verbose else "run again with -v to see where, and report it"
    else:
        code, message, hint, full_code = known.exit_code, str(known), known.hint, known.full_code
    if terminal.verbose:
        terminal.say("".join(traceback.format_exception(error)).rstrip())
    terminal.error(message, hint, full_code)
    if terminal.json:
        session.print_json({"error": {"code": full_code, "message": message, "hint": hint}, "exit_code": code})
    return code


def as_deliberate(error: BaseException) -> ExportError | None:
    """Return the error to tell the user; None where it is a bug. The most specific kind wins."""
    limit = limit_of(error) or exhausted(error)
    if limit is not None:
        return limit
    if isinstance(error, ExportError):
        return error
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message().rstrip("."), hint=_hint(error))
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return UsageError(
            os.strerror(error.errno or 0), where=str(error.filename or ""), hint="check the path and its permissions"
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(
            "no file or folder can have so long a name", where=f"{str(error.filename)[:60]}…", hint="check the path"
        )
    return None


def limit_of(error: BaseException) -> ExportError | None:
    """Return the limit that has stopped a run, or another's error; click turns what interrupts into one of its own."""
    behind = error.__cause__ if isinstance(error, click.Abort) else error
    return behind.error if isinstance(behind, Stopped) else None


def _hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "plm-export"
    return f"see `{path} --help`"


def _interrupted(session: Session) -> int:
    kept = session.resume
    checkpoints = f" (checkpoints kept for resume in {kept})" if kept is not None and kept.exists() else ""
    session.terminal.error(f"interrupted; nothing was left behind{checkpoints}")
    if session.terminal.json:
        told = {"code": INTERRUPTED_CODE, "message": "interrupted", "hint": ""}
        session.print_json({"error": told, "exit_code": INTERRUPTED_EXIT_CODE})
    return INTERRUPTED_EXIT_CODE


@contextlib.contextmanager
def _signals() -> Iterator[list[float]]:
    """Turn SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt; yields when they came.

    A second one within seconds is ignored, because it would cut short the removal of what was half made. A later one
    counts again: a library may have swallowed the first.
    """
    came: list[float] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        if came and time.monotonic() - came[-1] < SECONDS_TO_CLEAN_UP:
            return
        came.append(time.monotonic())
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    # A terminal that is closed ends a run, but not one that `nohup` has told to go on.
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    numbers = (signal.SIGINT, signal.SIGTERM, *hangup)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


if __name__ == "__main__":
    main()
