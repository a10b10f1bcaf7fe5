"""What is to be done, as data: typed, frozen, saved beside what it made, and run again from there."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.binding import bind, parse_options, unbind
from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded
from converter.data.names import bind_columns, bind_labels
from converter.errors import RecipeError, nearest
from converter.examples import SLICES
from converter.model_folder.recipe_files import lay_paths
from converter.model_folder.samples import is_sample, own_evaluation, resolve_recipe
from converter.precision import Limits, Quantizer, bound_limits, limits_table
from converter.registry import default_target, stage_class, target_class, task_names
from converter.target import Aim

if TYPE_CHECKING:
    from converter.stage import Stage
    from converter.target import Target

KEYS = (
    "model",
    "revision",
    "task",
    "prompt",
    "language",
    "targets",
    "seed",
    "threads",
    "calibration",
    "eval",
    "columns",
    "label_map",
    "max_length",
    "probes",
    "compress",
    "quantize",
    "target",
    "limits",
    "confidence",
    "slices",
)
LARGEST = MEGABYTE
"""Of a recipe: TOML takes long to read where keys are many and dotted."""
DEFAULT_PROBES = 400
CONFIDENCE = 0.95
MOST = 2**63 - 1
"""What torch's generators and TOML take."""
COMPRESSED_AGREEMENT = 0.9
COMPRESSED_DROP = 0.02
"""What a pruned or distilled model may lose where the recipe sets no limits: every tenth decision, two points."""
COMPRESSED_SEQUENCES, COMPRESSED_PERPLEXITY = 0.5, 1.5
"""The same of a model that writes text: one token that is another makes the rest another text, which may be as good."""


@dataclass(frozen=True)
class ChosenPrecision:
    """The name of an entry of a target's menu, with the options of its quantizer."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    named: bool = field(default=True, compare=False)
    """The user named it; else it is the target's default."""

    def __str__(self) -> str:
        return self.name + (":" + ",".join(f"{k}={v}" for k, v in self.options.items()) if self.options else "")


AUTO = "auto"
"""The precision that makes every candidate of a target and keeps the fastest that passes its gate."""


def tried(target: "Target", precision: ChosenPrecision) -> tuple[ChosenPrecision, ...]:
    """Return what a precision stands for: itself, or all candidates of `auto`."""
    if precision.name != AUTO:
        return (precision,)
    return tuple(ChosenPrecision(*parse_options(text, f"{target.name}.auto")) for text in target.candidates())


def aim_of(recipe: "Recipe") -> Aim:
    """Return what a recipe makes first: budgets of time and size are those of it."""
    target = recipe.targets[0]
    return Aim(target.name, target.menu()[tried(target, recipe.precisions[0])[0].name])


@dataclass(frozen=True)
class Recipe:
    """A whole run. Bound paths are absolute or `sample:NAME/FILE`; `model` is a folder, Hub id or `sample:NAME`."""

    model: str
    targets: "tuple[Target, ...]"
    precisions: tuple[ChosenPrecision, ...]
    """One a target, in the same order."""
    compress: "tuple[Stage[Any, Any], ...]" = ()
    revision: str | None = None
    task: str | None = None
    prompt: str | None = None
    """Name of one of the model's prompts; None: its default one."""
    language: str | None = None
    """What a translator of several languages answers in; None: what its folder says."""
    calibration: Path | None = None
    evaluation: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column of the data is `text`, `pair` and `label`, where the usual names do not tell."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """A label of the data to the model's (name or index); to `""`: rows with it are left out."""
    max_length: int | None = None
    """Longest text in tokens, at most what the model takes; None: that (question answering: as transformers reads)."""
    n_probes: int = DEFAULT_PROBES
    """At most this many texts are compared one by one; the task's metric uses all of `--eval`."""
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """Overrides by target name; `""` is for all targets."""
    seed: int = 0
    confidence: float = CONFIDENCE
    """Of each bound of agreement and metric: on text of the user's own, `evaluation`, the gate decides on them."""
    slices: tuple[str, ...] = SLICES
    """What judged texts are sliced by; a slice that surely breaks fails the gate."""
    threads: int | None = None
    """Of what compresses the model, training and calibration included; None: all. All else runs in one thread."""

    def limits_for(self, target: "Target", precision: str) -> Limits:
        """Return the target's own limits, overruled by the recipe's for all, then for this target.

        A recipe that compresses makes another model: it is held to the source's decisions and metric, not its numbers.
        """
        made = target.limits(precision)
        if self.compress:
            made = replace(
                made,
                max_error=None,
                mean_error=None,
                cosine=None,
                agreement=COMPRESSED_AGREEMENT,
                sequences=COMPRESSED_SEQUENCES,
                perplexity=COMPRESSED_PERPLEXITY,
                max_drop=max(made.max_drop or 0.0, COMPRESSED_DROP),
            )
        for key in ("", target.name):
            if key in self.limits:
                made = replace(made, **unbind(self.limits[key]))
        return made

    def asks_drop(self, target: "Target") -> bool:
        """Tell whether the recipe itself limits the drop of the metric."""
        return any(key in self.limits and self.limits[key].max_drop is not None for key in ("", target.name))


def load_recipe_table(path: Path) -> dict[str, Any]:
    """Read a TOML recipe (a file, or `sample:NAME`); relative paths in it are relative to its own folder."""
    path = resolve_recipe(path)
    try:
        table = tomllib.loads(read_bounded(path, LARGEST).decode())
    except FileNotFoundError:
        raise RecipeError("no such recipe", where=str(path)) from None
    except (OSError, UnfitFileError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"not a TOML recipe ({error})", where=str(path)) from None
    lay_paths(table, path.parent)
    model = table.get("model")
    if isinstance(model, str) and (path.parent / model).is_dir():
        table["model"] = str(path.parent / model)
    return table


def bind_recipe(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Make a `Recipe` of a plain table, checking everything that can be checked before work starts.

    Raises:
        RecipeError: names the key, what was found, and the nearest that exists.

    """
    for key in table:
        if key not in KEYS:
            raise RecipeError(f"unknown key {key!r}", where=where, hint=nearest(key, KEYS))
    target_tables = _table(table, "target", where)
    targets: list[Target] = []
    for name in _texts(table, "targets", where) or [default_target().name]:
        cls = target_class(name)
        if cls.name not in [t.name for t in targets]:
            key = cls.name if cls.name in target_tables else cls.name.replace("-", "_")
            options = _table(target_tables, key, f"{where}.target")
            targets.append(bind(cls, options, f"{where}.target.{cls.name}"))
    _known_targets(target_tables, targets, f"{where}.target")
    model = _text(table, "model", where) or "sample:default"
    return Recipe(
        model=model,
        targets=tuple(targets),
        precisions=_precisions(_table(table, "quantize", where), targets, f"{where}.quantize"),
        compress=_ordered(_stages(table.get("compress", []), f"{where}.compress"), f"{where}.compress"),
        revision=_text(table, "revision", where),
        task=_task(table, where),
        prompt=_text(table, "prompt", where),
        language=_text(table, "language", where),
        calibration=_path(table, "calibration", where),
        evaluation=_path(table, "eval", where) or own_evaluation(model),
        columns=bind_columns(table.get("columns", {}), f"{where}.columns"),
        label_map=bind_labels(table.get("label_map"), f"{where}.label_map"),
        max_length=_whole(table, "max_length", 0, where, low=4) if "max_length" in table else None,
        n_probes=_whole(table, "probes", DEFAULT_PROBES, where, low=1),
        limits=_limits(_table(table, "limits", where), targets, f"{where}.limits"),
        seed=_whole(table, "seed", 0, where, low=0),
        confidence=_confidence(table, where),
        slices=_slices(table, where),
        threads=_whole(table, "threads", 1, where, low=1) if "threads" in table else None,
    )


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """Return the plain table that `bind_recipe` turns back into an equal recipe."""
    table: dict[str, Any] = {
        "model": recipe.model,
        "targets": [t.name for t in recipe.targets],
        "seed": recipe.seed,
        "probes": recipe.n_probes,
    }
    named = {k: getattr(recipe, k) for k in ("revision", "task", "prompt", "language")}
    table |= {k: v for k, v in named.items() if v is not None}
    table |= {k: str(v) for k, v in (("calibration", recipe.calibration), ("eval", recipe.evaluation)) if v is not None}
    table |= {k: v for k, v in (("columns", dict(recipe.columns)), ("label_map", dict(recipe.label_map))) if v}
    table |= {} if recipe.confidence == CONFIDENCE else {"confidence": recipe.confidence}
    table |= {} if recipe.slices == SLICES else {"slices": list(recipe.slices) or ["none"]}
    whole = {"max_length": recipe.max_length, "threads": recipe.threads}
    table |= {k: v for k, v in whole.items() if v is not None}
    table["quantize"] = {
        t.name: {"precision": p.name, **p.options} for t, p in zip(recipe.targets, recipe.precisions, strict=True)
    }
    table["target"] = {t.name: unbind(t) for t in recipe.targets if unbind(t)}
    table["compress"] = [{"stage": s.name, **unbind(s)} for s in recipe.compress]
    table["limits"] = {
        **limits_table(recipe.limits.get("", Limits())),
        **{k: limits_table(v) for k, v in recipe.limits.items() if k},
    }
    return {k: v for k, v in table.items() if v not in ({}, [])}


def save_recipe(recipe: Recipe, path: Path) -> None:
    import tomli_w

    path.write_text(tomli_w.dumps(recipe_table(recipe)), encoding="utf-8")


def _stages(tables: Any, where: str) -> "list[Stage[Any, Any]]":
    if not isinstance(tables, list):
        raise RecipeError("wanted a list of tables", where=where, hint='[[compress]] then stage = "prune.structured"')
    made = []
    for i, table in enumerate(tables):
        if not isinstance(table, Mapping) or not isinstance(table.get("stage"), str):
            raise RecipeError("a stage needs its name", where=f"{where}[{i}]", hint='stage = "prune.structured"')
        cls = stage_class(table["stage"])
        if issubclass(cls, Quantizer):
            raise RecipeError(
                f"{cls.name} belongs under [quantize]",
                where=f"{where}[{i}]",
                hint=f'[quantize] then {cls.target} = "{cls.precision.name}"',
            )
        made.append(bind(cls, {k: v for k, v in table.items() if k != "stage"}, f"{where}[{i}]"))
    return made


def _ordered(stages: "list[Stage[Any, Any]]", where: str) -> "tuple[Stage[Any, Any], ...]":
    """Refuse an order that cannot work."""
    for i, stage in enumerate(stages):
        stage.check_after(stages[:i])
        for later in stages[i + 1 :]:
            if later.name.startswith(stage.bars or ("\0",)):
                again = later.name == stage.name
                never = stage.name.startswith(later.bars or ("\0",))
                raise RecipeError(
                    f"{stage.name} cannot run twice" if again else f"{later.name} cannot come after {stage.name}",
                    where=where,
                    hint="give it once"
                    if again
                    else "nor before it: leave one out"
                    if never
                    else f"put {later.name} first",
                )
    return tuple(stages)


def _precisions(table: Mapping[str, Any], targets: "list[Target]", where: str) -> tuple[ChosenPrecision, ...]:
    _known_targets(table, targets, where)
    made = []
    for target in targets:
        value = table.get(target.name, table.get(target.name.replace("-", "_")))
        named, value = value is not None, next(iter(target.menu())) if value is None else value
        name, options = _precision(value, f"{where}.{target.name}")
        if name == AUTO and options:
            raise RecipeError(
                f"auto has no option {next(iter(options))!r}", where=where, hint="name the precision to set its options"
            )
        if name not in (*target.menu(), AUTO):
            raise RecipeError(
                f"{target.name} has no precision {name!r}", where=where, hint=nearest(name, (*target.menu(), AUTO))
            )
        made.append(ChosenPrecision(name, options, named))
    return tuple(made)


def _precision(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return parse_options(value, where)
    if isinstance(value, Mapping) and isinstance(value.get("precision"), str):
        return value["precision"], {k: v for k, v in value.items() if k != "precision"}
    raise RecipeError(
        f"wanted a precision, found {value!r}", where=where, hint='"dynamic", or {precision = "static", …}'
    )


def _limits(table: Mapping[str, Any], targets: "list[Target]", where: str) -> dict[str, Limits]:
    own = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    _known_targets(own, targets, where)
    general = {k: v for k, v in table.items() if k not in own}
    made = {"": bound_limits(general, where)} if general else {}
    return made | {target_class(name).name: bound_limits(v, f"{where}.{name}") for name, v in own.items()}


def _confidence(table: Mapping[str, Any], where: str) -> float:
    value = table.get("confidence", CONFIDENCE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 < value < 1:
        raise RecipeError(
            f"wanted a number between 0.5 and 1, found {value!r}", where=f"{where}.confidence", hint="0.95"
        )
    return float(value)


def _slices(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = _texts(table, "slices", where) if "slices" in table else list(SLICES)
    for name in names:
        if name not in (*SLICES, "none"):
            raise RecipeError(
                f"there are no slices by {name!r}", where=f"{where}.slices", hint=nearest(name, (*SLICES, "none"))
            )
    return tuple(n for n in SLICES if n in names)


def _known_targets(table: Mapping[str, Any], targets: "list[Target]", where: str) -> None:
    names = {t.name for t in targets}
    for key in table:
        if key.replace("_", "-") not in names:
            raise RecipeError(f"{key!r} is not a target of this run", where=where, hint=nearest(key, names))


def _table(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise RecipeError(f"wanted a table, found {value!r}", where=f"{where}.{key}")
    return value


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise RecipeError(f"wanted text, found {value!r:.80}", where=f"{where}.{key}")
    if value is not None and "\0" in value:
        raise RecipeError("text with a NUL character names nothing", where=f"{where}.{key}")
    return value


def _task(table: Mapping[str, Any], where: str) -> str | None:
    name = _text(table, "task", where)
    if name is not None and name.replace("_", "-") not in task_names():
        raise RecipeError(f"there is no task {name!r}", where=f"{where}.task", hint=nearest(name, task_names()))
    return name


def _texts(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = table.get(key, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(v, str) for v in items):
        raise RecipeError(f"wanted a list of names, found {value!r}", where=f"{where}.{key}")
    return list(items)


def _path(table: Mapping[str, Any], key: str, where: str) -> Path | None:
    text = _text(table, key, where)
    if text is None:
        return None
    return Path(text) if is_sample(text) else Path(text).expanduser().absolute()


def _whole(table: Mapping[str, Any], key: str, default: int, where: str, *, low: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(f"wanted a whole number of at least {low}, found {value!r}", where=f"{where}.{key}")
    if value > MOST:
        raise RecipeError(f"must be at most {MOST}, found {value}", where=f"{where}.{key}")
    return value
