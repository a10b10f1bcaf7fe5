"""What can be tried: every stage that has a place in a search, with the ranges that its options declare."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.binding import Searched, parse_options, searched
from converter.errors import UsageError, nearest
from converter.registry import KINDS, names, quantizers, stage_class, target_class

if TYPE_CHECKING:
    from optuna.trial import Trial

    from converter.stage import Stage

NONE = "none"
"""The choice that leaves a place empty."""
STAGE_KINDS = tuple(kind for kind in KINDS if kind != "quantize")


@dataclass(frozen=True)
class Space:
    """All recipes that a search may come upon, for some targets and one kind of model."""

    targets: tuple[str, ...]
    kind: str = "encoder"
    without: tuple[str, ...] = ()
    """Names of stages, precisions, or folders of stages that are not tried."""

    def __post_init__(self) -> None:
        known = {*(s.name for s in _stages()), *STAGE_KINDS, *(p for t in self.targets for p in _precisions(t))}
        for name in self.without:
            if name not in known:
                raise UsageError(f"no search tries {name!r}", where="--without", hint=nearest(name, known))
        if not self.places and all(len(self.precisions(t)) <= 1 for t in self.targets) and len(self.targets) == 1:
            raise UsageError("nothing is left to search", where="--without", hint="leave fewer methods out")

    @property
    def places(self) -> dict[int, tuple[str, ...]]:
        """Return the stages of each place, in the order in which they run."""
        made: dict[int, list[str]] = {}
        for stage in _stages():
            if self.kind in stage.takes and not self.leaves_out(stage.name):
                made.setdefault(stage.place or 0, []).append(stage.name)
        return {place: tuple(made[place]) for place in sorted(made)}

    def precisions(self, target: str) -> tuple[str, ...]:
        """Return the precisions of a target that are tried, its default first."""
        return tuple(p for p in _precisions(target) if not self.leaves_out(p))

    def leaves_out(self, name: str) -> bool:
        """Tell whether the user does not want this stage, or precision, tried."""
        return name in self.without or name.partition(".")[0] in self.without

    def propose(self, trial: "Trial") -> dict[str, Any]:
        """Return the recipe that the sampler's numbers spell."""
        target = self.targets[0]
        if len(self.targets) > 1:
            target = str(trial.suggest_categorical("target", self.targets))
        precision = str(trial.suggest_categorical(f"{target}.precision", self.precisions(target) or (NONE,)))
        chosen = {"precision": precision} | _values(trial, f"{target}={precision}", _quantizer(target, precision))
        compress = []
        for place, stages in self.places.items():
            name = str(trial.suggest_categorical(f"place {place}", (NONE, *stages)))
            if name != NONE:
                compress.append({"stage": name, **_values(trial, name, searched(stage_class(name)))})
        return recipe_of(target, chosen, compress)

    def in_each_precision(self, recipe: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the recipe in its own precision, then in the others that are tried: each has its own times."""
        (target,) = recipe["targets"]
        yield dict(recipe)
        for name in self.precisions(target):
            if name != recipe["quantize"][target]["precision"]:
                yield {**recipe, "quantize": {target: {"precision": name}}}

    def numbers_of(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sampler's numbers that spell a recipe, or what is nearest to it: that is where it starts from."""
        (target,) = recipe["targets"]
        chosen = recipe["quantize"][target]
        made: dict[str, Any] = {"target": target} if len(self.targets) > 1 else {}
        allowed = self.precisions(target) or (NONE,)
        precision = chosen["precision"] if chosen["precision"] in allowed else allowed[0]
        made[f"{target}.precision"] = precision
        made |= _numbers(f"{target}={precision}", _quantizer(target, precision), chosen)
        stages = {table["stage"]: table for table in recipe.get("compress", ())}
        for place, offered in self.places.items():
            name = next((n for n in offered if n in stages), NONE)
            made[f"place {place}"] = name
            if name != NONE:
                made |= _numbers(name, searched(stage_class(name)), stages[name])
        return made

    @property
    def digest(self) -> str:
        """Return a digest of all that is tried: a study of another space is another study."""
        options = {name: searched(stage_class(name)) for stages in self.places.values() for name in stages}
        precisions = {t: {p: _quantizer(t, p) for p in self.precisions(t)} for t in self.targets}
        told = json.dumps([self.places, options, precisions], sort_keys=True, default=repr)
        return hashlib.sha256(told.encode()).hexdigest()


def recipe_of(target: str, precision: Mapping[str, Any], compress: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a search varies of a recipe, as a recipe file has it."""
    made: dict[str, Any] = {"targets": [target], "quantize": {target: dict(precision)}}
    return made | ({"compress": [dict(table) for table in compress]} if compress else {})


def described(recipe: Mapping[str, Any]) -> str:
    """Return a recipe in one line: its stages with their options, then target and precision."""
    parts = [
        _with_options(table["stage"], {k: v for k, v in table.items() if k != "stage"})
        for table in recipe.get("compress", ())
    ]
    for target, chosen in recipe["quantize"].items():
        options = {k: v for k, v in chosen.items() if k != "precision"}
        parts.append(_with_options(f"{target}={chosen['precision']}", options))
    return " + ".join(parts)


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    told = ",".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items())
    return f"{name}:{told}" if told else name


def _stages() -> "Iterator[type[Stage[Any, Any]]]":
    for kind in STAGE_KINDS:
        for name in names(f"converter.{kind}"):
            cls = stage_class(f"{kind}.{name}")
            if cls.place is not None:
                yield cls


def _precisions(target: str) -> tuple[str, ...]:
    """Return what `auto` would try, and what has options to search, in the order of the target's menu."""
    cls = target_class(target)
    tried = {parse_options(text, target)[0] for text in cls.candidates()}
    tried |= {name for name, quantizer in quantizers(cls.name).items() if searched(quantizer)}
    return tuple(name for name in cls.menu() if name in tried)


def _quantizer(target: str, precision: str) -> dict[str, Searched]:
    found = quantizers(target).get(precision)
    return {} if found is None else searched(found)


def _values(trial: "Trial", name: str, options: Mapping[str, Searched]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for option, what in options.items():
        label = f"{name}.{option}"
        if what.choices:
            made[option] = trial.suggest_categorical(label, what.choices)
        elif _whole(what):
            made[option] = trial.suggest_int(
                label, int(what.low), int(what.high), step=int(what.step or 1), log=what.log
            )
        else:
            made[option] = trial.suggest_float(label, what.low, what.high, step=what.step, log=what.log)
    return made


def _numbers(name: str, options: Mapping[str, Searched], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sampler would have had to suggest; an option that is not given is left to it."""
    made = {}
    for option, what in options.items():
        if option not in given:
            continue
        value = given[option]
        if what.choices:
            made[f"{name}.{option}"] = value if value in what.choices else what.choices[0]
            continue
        value = min(what.high, max(what.low, value))
        if what.step:
            value = min(what.high, what.low + what.step * round((value - what.low) / what.step))
        made[f"{name}.{option}"] = int(value) if _whole(what) else float(value)
    return made


def _whole(what: Searched) -> bool:
    return isinstance(what.low, int) and isinstance(what.high, int)
