"""The flags of `export` to the table of a recipe. Flag beats recipe file beats default."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.binding import parse_options
from converter.errors import UsageError, nearest

STAGE_FLAGS = ("--trim", "--prune", "--share", "--factorize", "--distill", "--adapt")


@dataclass(frozen=True)
class Flags:
    """What was typed, as click hands it over."""

    model: str | None = None
    target: tuple[str, ...] = ()
    output: Path | None = None
    recipe: Path | None = None
    trim: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    factorize: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()
    adapt: tuple[str, ...] = ()
    quantize: tuple[str, ...] = ()
    task: str | None = None
    prompt: str | None = None
    language: str | None = None
    revision: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    columns: str | None = None
    label_map: str | None = None
    max_length: int | None = None
    max_drop: str | None = None
    confidence: float | None = None
    slices: str | None = None
    limit: tuple[str, ...] = ()
    seq_len: str | None = None
    portable: bool = False
    probes: int | None = None
    seed: int | None = None
    force: bool = False
    wait: bool = False
    require_device: bool = False
    sign: Path | None = None
    require_license: bool = False
    resume: bool = False
    cache: str | None = None
    cache_size: str | None = None
    dry_run: bool = False


def recipe_table(flags: Flags, typed: Sequence[str]) -> dict[str, Any]:
    """Return the recipe file's table with the flags laid over it.

    `typed` is the command line itself: the order of `--trim`, `--prune` and their kin is the order of the stages.
    """
    from converter.model_folder.recipe_files import model_path
    from converter.recipe import load_recipe_table

    _refuse_empty(flags)
    table: dict[str, Any] = load_recipe_table(flags.recipe) if flags.recipe else {}
    if flags.model is not None:
        table["model"] = model_path(flags.model, Path())
    plain = {
        "task": flags.task,
        "prompt": flags.prompt,
        "language": flags.language,
        "revision": flags.revision,
        "calibration": flags.calibration,
        "eval": flags.evaluation,
        "columns": flags.columns,
        "label_map": flags.label_map,
        "max_length": flags.max_length,
        "probes": flags.probes,
        "seed": flags.seed,
        "confidence": flags.confidence,
        "slices": None if flags.slices is None else [s.strip() for s in flags.slices.split(",") if s.strip()],
    }
    table |= {key: value for key, value in plain.items() if value is not None}
    _lay_targets(table, flags.target)
    _lay_quantize(table, flags.quantize)
    _lay_lengths(table, flags.seq_len)
    _lay_portable(table, wanted=flags.portable)
    _lay_limits(table, flags)
    stages = _stages(flags, typed)
    if stages:
        table["compress"] = stages
    return table


def _refuse_empty(flags: Flags) -> None:
    """Refuse a flag whose value is empty: it stands for a shell variable that is not set, not for a wish.

    Read as a value, it would export the working folder, or turn the judging of slices off.
    """
    given = {
        "MODEL": flags.model,
        "--columns": flags.columns,
        "--slices": flags.slices,
        "--seq-len": flags.seq_len,
        "--cache": flags.cache,
    }
    for name, text in given.items():
        if text is not None and not text.strip(" ,"):
            raise UsageError("the value is empty", where=name, hint="is a variable of your script not set?")


def output_folder(flags: Flags, model: str) -> Path:
    """Return `-o`, or a folder in the working folder named after the model."""
    if flags.output is not None:
        return flags.output
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
    return Path(f"{name or 'model'}-export")


def _targets_of(table: Mapping[str, Any]) -> list[str]:
    """Return the run's targets by their proper names."""
    from converter.registry import default_target, target_class

    wanted = table.get("targets") or [default_target().name]
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    return [target_class(n).name for n in names if isinstance(n, str)]


def _sub(table: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return a nested table, copied or made on the way."""
    for key in keys:
        found = table.get(key, {})
        table[key] = dict(found) if isinstance(found, Mapping) else {}
        table = table[key]
    return table


def _lay_targets(table: dict[str, Any], given: Sequence[str]) -> None:
    if not given:
        return
    before = set(_targets_of(table))
    chosen: dict[str, dict[str, Any]] = {}
    for text in given:
        for item in [text] if ":" in text else text.split(","):
            name, options = parse_options(item.strip(), "--target")
            chosen[name.replace("_", "-")] = options
    table["targets"] = list(chosen)
    dropped = before - set(chosen)
    for key in ("quantize", "target", "limits"):
        if isinstance(table.get(key), Mapping):
            table[key] = {k: v for k, v in table[key].items() if k.replace("_", "-") not in dropped}
    for name, options in chosen.items():
        if options:
            _sub(table, "target", name).update(options)


def _lay_quantize(table: dict[str, Any], given: Sequence[str]) -> None:
    for text in given:
        before, equals, after = text.partition("=")
        if equals and ":" not in before:
            names, precision = [before.strip().replace("_", "-")], after
        else:
            names, precision = _targets_of(table), text
        name, options = parse_options(precision, "--quantize")
        for target in names:
            quantize = _sub(table, "quantize")
            quantize.pop(target.replace("-", "_"), None)
            quantize[target] = {"precision": name, **options}


def _lay_lengths(table: dict[str, Any], given: str | None) -> None:
    if given is None:
        return
    from converter.registry import targets_with

    lengths = [part for part in re.split(r"[,+\s]+", given) if part]
    able = targets_with("seq_len")
    fixed = [name for name in _targets_of(table) if name in able]
    if not fixed:
        raise UsageError(
            "no target of this run has fixed lengths",
            where="--seq-len",
            hint=f"it is an option of {' and '.join(able)}: --target {able[0]}",
        )
    for name in fixed:
        _sub(table, "target", name)["seq_len"] = lengths


def _lay_portable(table: dict[str, Any], *, wanted: bool) -> None:
    if not wanted:
        return
    from converter.registry import quantizers_with, target_names

    able = {name: made for name in target_names() if (made := quantizers_with("portable", name))}
    found = [name for name in _targets_of(table) if name in able]
    if not found:
        raise UsageError(
            "no target of this run knows a portable file",
            where="--portable",
            hint=f"it is standard ONNX in int8: --target {next(iter(able))}",
        )
    quantize = _sub(table, "quantize")
    for name in found:
        given = quantize.pop(name.replace("-", "_"), quantize.get(name))
        chosen = dict(given) if isinstance(given, Mapping) else {"precision": given or able[name][0]}
        quantize[name] = {"precision": able[name][0]} | chosen | {"portable": True}


def _lay_limits(table: dict[str, Any], flags: Flags) -> None:
    given = [] if flags.max_drop is None else [("max_drop", flags.max_drop, "--max-drop")]
    for text in flags.limit:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is not NAME=VALUE", where="--limit", hint="--limit agreement=0.98")
        given.append((key.strip(), value.strip(), "--limit"))
    for key, value, where in given:
        target, dot, name = key.rpartition(".")
        limits = _sub(table, "limits")
        name = name.replace("-", "_")
        if dot:
            _sub(limits, target.replace("_", "-"))[name] = _limit(name, value, where)
            continue
        limits[name] = _limit(name, value, where)
        # A limit for all overrules what the recipe says of one target.
        for target, found in limits.items():
            if isinstance(found, Mapping):
                limits[target] = {k: v for k, v in found.items() if k.replace("-", "_") != name}


def _limit(name: str, text: str, where: str) -> float | str:
    from converter.precision import points, points_text

    return points_text(float(points(text, where))) if name == "max_drop" else _number(text, where)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"wanted a number, found {text!r}", where=where, hint="--limit agreement=0.98") from None


def _stages(flags: Flags, typed: Sequence[str]) -> list[dict[str, Any]]:
    values = {
        "--trim": list(flags.trim),
        "--prune": list(flags.prune),
        "--share": list(flags.share),
        "--factorize": list(flags.factorize),
        "--distill": list(flags.distill),
        "--adapt": list(flags.adapt),
    }
    stages = [_stage(flag, values[flag].pop(0)) for flag in stage_order(typed) if values[flag]]
    return stages + [_stage(flag, text) for flag in STAGE_FLAGS for text in values[flag]]


def stage_order(typed: Sequence[str]) -> list[str]:
    """Return `--trim`, `--prune` and their kin in the order in which they stand on the command line."""
    return [flag for word in typed if (flag := word.partition("=")[0]) in STAGE_FLAGS]


def _stage(flag: str, text: str) -> dict[str, Any]:
    from converter.model_folder.recipe_files import lay_files
    from converter.registry import names

    name, options = parse_options(text, flag)
    kind = flag.removeprefix("--")
    name = name.removeprefix(f"{kind}.").replace("-", "_")
    known = names(f"converter.{kind}")
    if name not in known:
        raise UsageError(f"there is no {kind} method {name!r}", where=flag, hint=nearest(name, known))
    lay_files(options, Path.cwd())
    return {"stage": f"{kind}.{name}", **options}
