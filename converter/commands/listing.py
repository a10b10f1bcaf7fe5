"""`plm-export list [KIND]` and `plm-export describe NAME`."""

import dataclasses
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.errors import UsageError, nearest

if TYPE_CHECKING:
    from converter.commands.terminal import Terminal
    from converter.task import Task

KINDS = ("targets", "tasks", "trim", "prune", "share", "factorize", "distill", "quantize", "families", "samples")


@click.command("list", short_help="Name the targets, tasks, methods, families and samples there are.")
@click.argument("kind", required=False)
@json_option
@quiet_options
@click.pass_obj
def list_names(session: Session, kind: str | None) -> int:
    """Name what there is of KIND (targets, tasks, trim, prune, share, factorize, distill, …); without KIND, all."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind {kind!r}", hint=nearest(kind, KINDS))
    terminal = session.terminal
    with terminal.hushed():
        found = {k: known(k) for k in ([kind] if kind else KINDS)}
        if terminal.json:
            session.print_json(found)
            return 0
        width = max((len(name) for names in found.values() for name in names), default=0)
        for title, names in found.items():
            terminal.result(title)
            for name, summary in names.items():
                terminal.result(f"  {name:{width}}  {summary}".rstrip())
    return 0


def known(kind: str) -> dict[str, str]:
    """Return each name of `kind` with a line about it."""
    from converter import registry

    match kind:
        case "targets":
            return {n: registry.target_class(n).summary for n in registry.target_names()}
        case "tasks":
            return {n: _task_line(registry.task_class(n)) for n in registry.task_names()}
        case "families":
            return dict.fromkeys(sorted(registry.families()), "can be pruned")
        case "samples":
            import sample_models

            return {f"sample:{n}": text for n, text in sample_models.names().items()}
        case _:
            stages = [n for n in registry.stage_names() if n.startswith(f"{kind}.")]
            return {n: registry.stage_class(n).summary for n in stages}


def _task_line(task: "type[Task]") -> str:
    return f"architectures named …{task.architecture}"


@click.command("describe", short_help="Show what a target or method does, and its options.")
@click.argument("name")
@json_option
@quiet_options
@click.pass_obj
def describe(session: Session, name: str) -> int:
    """Show what NAME (a target, `prune.structured`, or only `structured`) does, and every option it takes."""
    terminal = session.terminal
    with terminal.hushed():
        found = description(name)
        if terminal.json:
            session.print_json(found)
        else:
            _show(found, terminal)
    return 0


def description(name: str) -> dict[str, Any]:
    """Return name, summary, usage and options of a target, a stage or `limits`.

    Raises:
        UsageError: there is nothing of that name; the nearest is named.

    """
    from converter.precision import Limits

    if name == "limits":
        return _described("limits", "Limits of the gate", Limits, "--limit NAME=X, or [limits] in a recipe")
    proper, cls = _class_of(name)
    made: dict[str, Any] = _described(proper, cls.summary, cls, _usage(proper))
    if "." not in proper:
        made["precisions"] = list(cls.menu())
        made["default_precision"] = next(iter(cls.menu()))
    return made


def _class_of(name: str) -> tuple[str, Any]:
    from converter import registry

    dashed, plain = name.replace("_", "-"), name.replace("-", "_")
    if dashed in registry.target_names():
        return dashed, registry.target_class(dashed)
    matches = [s for s in registry.stage_names() if plain in {s, s.partition(".")[2]}]
    if len(matches) == 1:
        return matches[0], registry.stage_class(matches[0])
    if matches:
        raise UsageError(f"{name!r} names several methods", hint=f"say which: {', '.join(matches)}")
    stages = registry.stage_names()
    choices = (*registry.target_names(), *stages, *(s.partition(".")[2] for s in stages), "limits")
    raise UsageError(f"there is nothing called {name!r}", hint=nearest(plain, choices))


def _usage(proper: str) -> str:
    kind, _, method = proper.partition(".")
    if not method:
        return f"--target {proper}, options under [target.{proper}]"
    if kind == "quantize":
        return f"--quantize TARGET={method}:KEY=VALUE,…"
    return f'--{kind} {method}:KEY=VALUE,…, or [[compress]] with stage = "{proper}"'


def _described(name: str, summary: str, cls: type, usage: str) -> dict[str, Any]:
    doc = inspect.getdoc(cls) or ""
    # dataclasses write their signature where a class has no docstring of its own
    return {
        "name": name,
        "summary": summary,
        "about": "" if doc.startswith(f"{cls.__name__}(") else doc,
        "usage": usage,
        "options": options(cls),
    }


def options(cls: type) -> list[dict[str, Any]]:
    """Return name, type, default, bounds and help of each option of an option dataclass."""
    hints = typing.get_type_hints(cls)
    return [
        {
            "name": f.name,
            "type": _type_name(hints[f.name]),
            "default": _default(f),
            "low": f.metadata.get("low"),
            "high": f.metadata.get("high"),
            "help": f.metadata.get("help", ""),
        }
        for f in dataclasses.fields(cls)
        if f.init
    ]


def _default(f: "dataclasses.Field[Any]") -> Any:
    if f.default is not dataclasses.MISSING:
        return list(f.default) if isinstance(f.default, tuple) else f.default
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else None


def _type_name(wanted: Any) -> str:
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in {types.UnionType, typing.Union}:
        inner = " or ".join(_type_name(a) for a in args if a is not type(None))
        return f"{inner} or none" if type(None) in args else inner
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"{_type_name(args[0])} list (a+b)"
    plain = {int: "whole number", float: "number", str: "text", bool: "true/false"}
    return plain.get(wanted, getattr(wanted, "__name__", str(wanted)))


def _show(found: dict[str, Any], terminal: "Terminal") -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    console = terminal.result_console
    console.print(f"[bold]{escape(found['name'])}[/]  {escape(found['summary'])}")
    console.print(f"usage: {found['usage']}", markup=False)
    if found.get("precisions"):
        console.print(f"precisions: {', '.join(found['precisions'])} (the first is the default)", markup=False)
    if found["about"]:
        console.print("\n" + found["about"], markup=False)
    if not found["options"]:
        console.print("\nno options", markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("option", "default", "type", "range", "what it does"):
        table.add_column(title, overflow="fold", no_wrap=title == "option")
    for o in found["options"]:
        cells = (o["name"], _text(o["default"]), o["type"], _range(o["low"], o["high"]), o["help"])
        table.add_row(*map(escape, cells))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"≥ {low:g}" if high is None else f"≤ {high:g}" if low is None else f"{low:g} … {high:g}"
