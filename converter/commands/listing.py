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

KINDS = (
    "targets",
    "tasks",
    "trim",
    "prune",
    "share",
    "factorize",
    "distill",
    "adapt",
    "quantize",
    "families",
    "samples",
)


@click.command("list", short_help="List targets, tasks, methods, model families and samples.")
@click.argument("kind", required=False)
@json_option
@quiet_options
@click.pass_obj
def list_names(session: Session, kind: str | None) -> int:
    """List everything of one KIND (targets, tasks, trim, prune, share, factorize, distill, …), or of all kinds."""
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
        case "quantize":
            return {f"{target}={p}": _precision(target, p)["summary"] for target, p in menu()}
        case _:
            stages = [n for n in registry.stage_names() if n.startswith(f"{kind}.")]
            return {n: registry.stage_class(n).summary for n in stages}


def _task_line(task: "type[Task]") -> str:
    return f"architectures named …{task.architecture}"


@click.command("describe", short_help="Show what a target, method or precision does, and its options.")
@click.argument("name")
@json_option
@quiet_options
@click.pass_obj
def describe(session: Session, name: str) -> int:
    """Show what NAME does, and every option it takes.

    NAME is a target (tflite), a method (prune.structured, or only structured), a precision (static, or tflite=static
    for one target), or limits. A name that several things have shows them all.
    """
    terminal = session.terminal
    with terminal.hushed():
        found = descriptions(name)
        if terminal.json:
            session.print_json(found[0] if len(found) == 1 else found)
            return 0
        for i, one in enumerate(found):
            if i:
                terminal.result("")
            _show(one, terminal)
    return 0


def descriptions(name: str) -> list[dict[str, Any]]:
    """Return name, summary, usage and options of all that is called `name`, by the names that users type.

    Raises:
        UsageError: there is nothing of that name; the nearest is named.

    """
    from converter import registry
    from converter.precision import Limits

    dashed, plain = name.replace("_", "-"), name.replace("-", "_")
    if name == "limits":
        return [_described("limits", "Limits of the gate", Limits, "--limit NAME=X, or [limits] in a recipe")]
    if dashed in registry.target_names():
        return [_target(dashed)]
    made = [_method(s) for s in methods() if plain in {s, s.partition(".")[2]}]
    made += [_precision(target, p) for target, p in menu() if plain in _names(target, p)]
    if not made:
        short = (s.partition(".")[2] for s in methods())
        typed = (f"{target}={precision}" for target, precision in menu())
        choices = (*registry.target_names(), *methods(), *short, *(p for _, p in menu()), *typed, "limits")
        raise UsageError(f"there is nothing called {name!r}", hint=nearest(name, choices))
    return made


def methods() -> list[str]:
    """Return the stages that a recipe's [[compress]] takes."""
    from converter import registry

    return [s for s in registry.stage_names() if not s.startswith("quantize.")]


def menu() -> list[tuple[str, str]]:
    """Return every target with each of its precisions, as `--quantize TARGET=PRECISION` takes them."""
    from converter import registry

    return [(target, p) for target in registry.target_names() for p in registry.target_class(target).menu()]


def _names(target: str, precision: str) -> set[str]:
    """Return the names of a precision: its own, with its target, and that of its stage, which records have."""
    from converter import registry

    quantizer = registry.quantizers(target).get(precision)
    stage = quantizer.__module__.removeprefix("converter.") if quantizer else precision
    return {precision, f"{target.replace('-', '_')}={precision}", stage, stage.rpartition(".")[2]}


def _target(name: str) -> dict[str, Any]:
    from converter import registry

    cls = registry.target_class(name)
    made = _described(name, cls.summary, cls, f"--target {name}:KEY=VALUE,…, or [target.{name}] in a recipe")
    return made | {"precisions": list(cls.menu()), "default_precision": next(iter(cls.menu()))}


def _method(name: str) -> dict[str, Any]:
    from converter import registry

    kind, _, method = name.partition(".")
    cls = registry.stage_class(name)
    usage = f'--{kind} {method}:KEY=VALUE,…, or [[compress]] with stage = "{name}" in a recipe'
    return _described(name, cls.summary, cls, usage)


def _precision(target: str, precision: str) -> dict[str, Any]:
    from converter import registry

    typed, cls = f"{target}={precision}", registry.quantizers(target).get(precision)
    summary = cls.summary if cls else "float32, not quantized"
    typed_options = ":KEY=VALUE,…" if cls and options(cls) else ""
    usage = f"--quantize {typed}{typed_options}, or [quantize] in a recipe"
    if cls is None:
        return {"name": typed, "summary": summary, "about": "", "usage": usage, "options": []}
    return _described(typed, summary, cls, usage)


def _described(name: str, summary: str, cls: type, usage: str) -> dict[str, Any]:
    doc = (inspect.getdoc(cls) or "").partition("\nRaises")[0].strip()
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
    console.print(f"[bold]{escape(found['name'])}[/]  {escape(found['summary'])}", markup=True)
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
        cells = (o["name"], option_text(o["default"]), o["type"], range_text(o["low"], o["high"]), o["help"])
        table.add_row(*cells)
    console.print(table)


def option_text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def range_text(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"≥ {low:g}" if high is None else f"≤ {high:g}" if low is None else f"{low:g} … {high:g}"
