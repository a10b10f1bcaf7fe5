"""Untrusted tables and `key=value` text to option dataclasses, and back: checked here once, trusted inside."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin

from converter.errors import RecipeError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Searched:
    """What `plm-export search` tries of an option: one of `choices`, or a number from `low` to `high`."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    """Only `low` plus whole multiples of this are tried; None: any number."""
    log: bool = False
    """Small numbers are told apart as finely as large ones, by their ratio."""


def among(*choices: Any) -> Searched:
    """Return what lets a search try each of some values."""
    return Searched(choices=choices)


def span(low: float, high: float, *, step: float | None = None, log: bool = False) -> Searched:
    """Return what lets a search try numbers in a range, both ends included; whole ones where the ends are whole."""
    return Searched((), low, high, step, log)


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    low: float | None = None,
    high: float | None = None,
    search: Searched | None = None,
    effort: int | None = None,
) -> Any:
    """Declare a field of an option dataclass: its default, one line of help, and inclusive bounds of its number(s).

    `search`: what a search tries of it; None: it stays as it is. `effort`: the time that a stage takes grows with this
    number, and a search's trials take a share of it, but no less than so much.
    """
    told = {"help": help, "low": low, "high": high, "search": search, "effort": effort}
    return field(default=default, metadata=told)


def searched(cls: type) -> dict[str, Searched]:
    """Return the options of which a search may try other values, by name."""
    found = {f.name: f.metadata.get("search") for f in dataclasses.fields(cls)}
    return {name: what for name, what in found.items() if what is not None}


def with_effort(value: T, share: float) -> T:
    """Return the options with less of what takes time: `share` (0..1) of each such number, but not below its least."""
    changed = {}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        least, now = f.metadata.get("effort"), getattr(value, f.name)
        if least is not None and now is not None and now > least:
            changed[f.name] = max(least, round(now * share))
    return dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]


def bind(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make `cls` from a table of plain values.

    Raises:
        RecipeError: an unknown key (the nearest is named), a wrong type, or a value out of range.

    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise RecipeError(f"unknown option {key!r}", where=where, hint=nearest(name, known))
        values[name] = _convert(value, hints[name], f"{where}.{name}")
        _check_range(values[name], known[name], f"{where}.{name}")
    missing = [
        n
        for n, f in known.items()
        if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{missing[0]} is missing", where=where)
    return cls(**values)


def parse_options(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """Split `name:key=value,key=value` into the name and a table; `a+b` in a value is a list.

    >>> parse_options("structured:heads=0.5,ffn=0.25", "--prune")
    ('structured', {'heads': '0.5', 'ffn': '0.25'})
    """
    name, _, rest = text.partition(":")
    table: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"{item!r} is not key=value", where=where, hint="write it as name:key=value,key=value")
        table[key.strip()] = value.strip().split("+") if "+" in value else value.strip()
    return name.strip(), table


def unbind(value: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults, as plain values that `bind` accepts."""
    made = {}
    for f in dataclasses.fields(value):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        current = getattr(value, f.name)
        if current != default:
            made[f.name] = list(current) if isinstance(current, tuple) else current
    return made


def _convert(value: Any, wanted: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind of type
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in {types.UnionType, typing.Union}:
        if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in args):
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        # The command line says "16" where a recipe says 16.
        found = [choice for choice in args if str(choice) == str(value)]
        if not found:
            raise RecipeError(f"{value!r} is not a choice", where=where, hint=nearest(str(value), map(str, args)))
        return found[0]
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(items))
    if wanted is bool:
        return _bool(value, where)
    if wanted in {int, float}:
        return _number(value, wanted, where)
    if wanted is str and isinstance(value, str):
        return value
    raise RecipeError(f"wanted {getattr(wanted, '__name__', wanted)}, found {value!r}", where=where)


def _bool(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in known:
        raise RecipeError(f"wanted true or false, found {value!r}", where=where)
    return known[str(value).lower()]


def _number(value: Any, wanted: type, where: str) -> float:
    if isinstance(value, bool):
        raise RecipeError(f"wanted a number, found {value!r}", where=where)
    try:
        number = wanted(value)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(
            f"wanted {'a whole number' if wanted is int else 'a number'}, found {value!r}", where=where
        ) from None
    if wanted is int and isinstance(value, float) and value != number:
        raise RecipeError(f"wanted a whole number, found {value!r}", where=where)
    return number


def _check_range(value: Any, f: dataclasses.Field[Any], where: str) -> None:
    low, high = f.metadata.get("low"), f.metadata.get("high")
    for item in value if isinstance(value, tuple) else (value,):
        if (
            isinstance(item, (int, float))
            and not isinstance(item, bool)
            and not ((low is None or item >= low) and (high is None or item <= high))
        ):
            limits = (
                f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
            )
            raise RecipeError(f"must be {limits}, found {item}", where=where, hint=f.metadata.get("help", ""))
        if isinstance(item, float) and not math.isfinite(item):
            raise RecipeError(f"must be a finite number, found {item}", where=where, hint=f.metadata.get("help", ""))


def check_ascending(values: Sequence[int], where: str) -> None:
    """Hold an option that lists places to an ascending order, none twice; `where` ends with its name.

    Raises:
        RecipeError: it has another order.

    """
    if list(values) != sorted(set(values)):
        name = where.rpartition(".")[2]
        raise RecipeError(f"{name} must be ascending, found {list(values)}", where=where)
