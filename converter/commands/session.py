"""What every command is handed, and the flags that all of them have."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from converter.bounds.sizes import parse_seconds, parse_size
from converter.commands.terminal import Terminal
from converter.errors import ExportError, UsageError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Session:
    """One run of the command line."""

    terminal: Terminal
    argv: Sequence[str]
    """What was typed, `_` in flags turned to `-`."""
    commands: tuple[str, ...] = ()
    resume: Path | None = None
    """Where checkpoints of this run are kept, once that is known."""

    def last_word(self, error: ExportError) -> None:
        """Say why the process ends at once, to people and machines, from whatever thread."""
        self.terminal.error(str(error), error.hint)
        if self.terminal.json:
            self.print_json({"error": {"message": str(error), "hint": error.hint}, "exit_code": error.exit_code})

    def print_json(self, document: Any) -> None:
        """Write one JSON document to stdout."""
        self.terminal.document(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def _set(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
        if value:
            setattr(ctx.obj.terminal, name, True)

    return callback


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set("json"),
        help="Print the result as one JSON document.",
    )(command)


def limit_options(*, disk: bool = False, seconds: str | None = None, memory: str = "what there is") -> Callable[[F], F]:
    """Add `--max-memory`, `--timeout` and, if wanted, `--max-disk`; what is not given is as the defaults say."""

    def add(command: F) -> F:
        time = click.option(
            "--timeout",
            callback=_limit,
            metavar="TIME",
            default=seconds,
            help=f"Stop after TIME, such as 90s, 10m or 2h; default: {seconds or 'none'}.",
        )
        ram = click.option(
            "--max-memory",
            callback=_limit,
            metavar="SIZE",
            help=f"Stop at more memory than SIZE, such as 4GB; default: {memory}.",
        )
        place = click.option(
            "--max-disk", callback=_limit, metavar="SIZE", help="Stop when more than SIZE is written, such as 500MB."
        )
        return time(ram(place(command) if disk else command))

    return add


def _limit(_context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    flag = parameter.opts[0]
    return parse_seconds(value, flag) if flag == "--timeout" else parse_size(value, flag)


def refuse_without_ray(address: str | None, given: Mapping[str, object]) -> None:
    """Refuse flags that only workers of a cluster heed, where no cluster is named: they would do nothing.

    Raises:
        UsageError: says which.

    """
    for flag, value in given.items():
        if value is not None and address is None:
            raise UsageError(
                f"{flag} has a meaning only with --ray", where=flag, hint=f"add --ray ADDRESS, or leave {flag} out"
            )


def quiet_options(command: F) -> F:
    """Add `-q` and `-v`."""
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set("quiet"),
        help="Show no progress.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set("verbose"),
        help="Show the output of libraries, and tracebacks.",
    )
    return quiet(verbose(command))
