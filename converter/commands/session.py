"""What every command is handed, and the flags that all of them have."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from converter.commands.terminal import Terminal

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
