"""`plm-export plan MODEL …`: what a recipe would do, before it does it."""

import copy
from typing import TYPE_CHECKING, Any

import click

from converter.commands.export import export
from converter.commands.flags import Flags, recipe_table
from converter.commands.session import Session

if TYPE_CHECKING:
    from converter.commands.terminal import Terminal
    from converter.planning import Plan, Step

OF_A_RUN = {"output", "force", "wait", "require_device", "dry_run", "max_memory", "max_disk", "timeout", "device_map"}
"""Flags of `export` that say where to or how strictly: nothing is made here."""


@click.command("plan", short_help="Estimate size, speed, time and memory of an export, without running it.")
@click.pass_context
def plan(context: click.Context) -> int:
    """Estimate, for the flags or the recipe of an export of MODEL, the result of each step. Nothing is exported.

    Sizes are those of the weights by target; graph and tokenizer add some hundred kilobytes. Speed is shown if operator
    times of this machine are known (cpu-int8).
    """
    from converter.recipe import bind_recipe

    session: Session = context.obj
    flags = Flags(**context.meta.get(__name__, {}))
    table = recipe_table(flags, session.argv)
    recipe = bind_recipe(table, where=str(flags.recipe) if flags.recipe else "recipe")
    terminal = session.terminal
    with terminal.hushed():
        from converter.planning import plan_recipe

        progress = terminal.progress()
        with progress.task("Planning"):
            made = plan_recipe(recipe, progress=progress)
        if terminal.json:
            session.print_json(made.table())
        else:
            _show(made, terminal)
    return 0


def _show(made: "Plan", terminal: "Terminal") -> None:
    from rich.table import Table

    targets = list(made.steps[0].megabytes)
    table = Table(box=None, pad_edge=False)
    table.add_column("step")
    for name in ("parameters", *(f"{t} MB" for t in targets), "ms per text", "export time"):
        table.add_column(name, justify="right")
    for step in made.steps:
        table.add_row(step.step, *_cells(step, targets))
    terminal.result(f"{made.model}, {made.task}, {made.texts} calibration texts")
    terminal.result_console.print(table)
    for step in made.steps:
        for note in step.notes:
            terminal.result(note if note.startswith(step.step) else f"{step.step}: {note}")
    terminal.result(
        f"In total about {_duration(made.seconds)} here ({_duration(made.proof_seconds)} of it for the checks), "
        f"and {made.memory_megabytes:.0f} MB of memory in addition to the libraries."
    )
    if len(made.memory_by_part) > 1:
        parts = ", ".join(f"{part} {megabytes:.0f} MB" for part, megabytes in made.memory_by_part.items())
        terminal.result(f"Memory by part: {parts}.")
    terminal.say("Nothing was exported.")


def _cells(step: "Step", targets: list[str]) -> list[str]:
    speed = "" if step.milliseconds is None else f"{step.milliseconds:.2f}"
    sizes = [f"{step.megabytes[t]:.2f}" for t in targets]
    return [f"{step.parameters / 1e6:.2f} M", *sizes, speed, _duration(step.seconds) if step.seconds else ""]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    context.meta.setdefault(__name__, {})[parameter.name] = value
    return value


def _noted(parameter: click.Parameter) -> click.Parameter:
    """Return a flag of `export` that is noted instead of handed over: the two commands cannot grow apart."""
    made = copy.copy(parameter)
    if parameter.expose_value:
        made.expose_value, made.callback = False, _note
    return made


plan.params = [_noted(p) for p in export.params if p.name not in OF_A_RUN]
