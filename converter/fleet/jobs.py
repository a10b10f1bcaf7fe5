"""The jobs of `plm-export batch`: a TOML file, or a folder of models and a list of recipes."""

import itertools
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded
from converter.errors import RecipeError
from converter.fleet.outcome import OWN_NAMES
from converter.model_folder.recipe_files import lay_paths, model_path
from converter.model_folder.samples import is_sample
from converter.recipe import load_recipe_table

LARGEST_FILE = 8 * MEGABYTE
"""Ten thousand jobs take less."""
LONGEST_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
HINT = '[[job]] then model = "./my-model", recipe = "int8.toml"'


@dataclass(frozen=True)
class Job:
    """One run of `plm-export export` in a process of its own."""

    name: str
    """Of its folder in the output."""
    recipe: Mapping[str, Any]
    """The table of a recipe; its paths are absolute."""


class _Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every model with every recipe."""

    models: list[str]
    recipes: list[str] = []
    targets: list[str] = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: list[dict[str, Any]] = []
    matrix: _Matrix | None = None
    defaults: dict[str, Any] = {}


def read_jobs(path: Path) -> tuple[Job, ...]:
    """Read a job file; relative paths in it are relative to its own folder.

    `[[job]]` has `name`, `recipe` (a file or `sample:NAME`) and the keys of a recipe, which overrule it; `[matrix]` has
    `models`, `recipes` and `targets` and makes a job of every pair; `[defaults]` stands under all jobs.

    Raises:
        RecipeError: the file cannot be read, has a key that does not exist, no job, or two jobs of one name.

    """
    table, folder = _read(path), path.parent.absolute()
    made = [_job(one, table.defaults, folder, f"{path}: job {i}") for i, one in enumerate(table.job, 1)]
    if table.matrix is not None:
        pairs = matrix(table.matrix.models, table.matrix.recipes, table.matrix.targets)
        named = _named_apart(pairs, [job.name for job in made])
        made += [_job(one, table.defaults, folder, f"{path}: matrix") for one in named]
    return _checked(made, str(path))


def jobs_of_folder(folder: Path, recipes: Sequence[str], targets: Sequence[str]) -> tuple[Job, ...]:
    """Return a job for every model in `folder` (a folder with a config.json or modules.json) and every recipe.

    Raises:
        RecipeError: there is no model in `folder`.

    """
    if not folder.is_dir():
        raise RecipeError("there is no such folder", where=str(folder), hint="--models takes a folder of model folders")
    found = sorted(
        str(one.absolute())
        for one in folder.iterdir()
        if one.is_dir() and any((one / name).is_file() for name in ("config.json", "modules.json"))
    )
    if not found:
        raise RecipeError(
            "no model is in it", where=str(folder), hint="a model is a folder with config.json or modules.json"
        )
    named = _named_apart(matrix(found, recipes, targets), ())
    made = [_job(one, {}, Path.cwd(), str(folder)) for one in named]
    return _checked(made, str(folder))


def matrix(models: Sequence[str], recipes: Sequence[str], targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the table of a job for every model with every recipe; names are MODEL or MODEL-RECIPE."""
    for model in models:
        for recipe in recipes or [""]:
            words = [_stem(model), *([_stem(recipe)] if len(recipes) > 1 else [])]
            made: dict[str, Any] = {"name": "-".join(words), "model": model}
            made |= {"recipe": recipe} if recipe else {}
            yield made | ({"targets": list(targets)} if targets else {})


def _named_apart(tables: Iterable[dict[str, Any]], taken: Iterable[str]) -> list[dict[str, Any]]:
    """Number what would have one name: whoever gives models or recipes by their folders gives no names.

    One that stands there twice is named alike, and refused.
    """
    used = {name.lower() for name in (*OWN_NAMES, *taken)}
    names: dict[tuple[str, str], str] = {}
    made = []
    for table in tables:
        pair = (str(table["model"]), str(table.get("recipe")))
        if pair not in names:
            names[pair] = _free(str(table["name"]), used)
            used.add(names[pair].lower())
        made.append(table | {"name": names[pair]})
    return made


def _free(name: str, used: Collection[str]) -> str:
    """Return a name that is not too long and that nobody has, with a number behind it where it needs one."""
    made = name[:LONGEST_NAME]
    for number in itertools.count(2):
        if made.lower() not in used:
            break
        made = f"{name[: LONGEST_NAME - 8]}-{number}"
    return made


def _stem(text: str) -> str:
    name = text.rstrip("/").rpartition("/")[2].removesuffix(".toml").rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _read(path: Path) -> _File:
    try:
        if not path.is_file():
            raise RecipeError("no such job file", where=str(path), hint="--models DIR takes a folder of models")
        return msgspec.convert(tomllib.loads(read_bounded(path, LARGEST_FILE).decode()), _File)
    except msgspec.ValidationError as error:
        raise RecipeError(
            str(error), where=str(path), hint=f"it has [[job]], [matrix] and [defaults]: {HINT}"
        ) from None
    except (OSError, UnfitFileError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"not a TOML file ({error})", where=str(path)) from None


def _job(given: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path, where: str) -> Job:
    table = dict(given)
    name, recipe = table.pop("name", None), table.pop("recipe", None)
    for key, value in (("name", name), ("recipe", recipe)):
        if value is not None and not isinstance(value, str):
            raise RecipeError(f"{key} is text, found {value!r}", where=where, hint=HINT)
    made = {**defaults, **(_recipe(recipe, folder) if recipe else {}), **table}
    lay_paths(made, folder)  # what a recipe has laid already is full
    if isinstance(made.get("model"), str):
        with suppress(OSError):  # no name that a folder can have: the job says so, and the others run
            made["model"] = model_path(made["model"], folder)
    if name is None:
        name = _stem(str(made.get("model", "sample-default")))
    # A file system may take `Logs` and `logs` for one.
    if not NAME.fullmatch(name) or name.lower() in OWN_NAMES:
        why = "the batch has files of its own of that name" if NAME.fullmatch(name) else "it names a folder"
        raise RecipeError(
            f"{name!r} cannot be the name of a job: {why}", where=where, hint='name = "…": letters, digits, . _ and -'
        )
    return Job(name, made)


def _recipe(text: str, folder: Path) -> dict[str, Any]:
    return load_recipe_table(Path(text) if is_sample(text) else folder / Path(text).expanduser())


def _checked(jobs: Sequence[Job], where: str) -> tuple[Job, ...]:
    if not jobs:
        raise RecipeError("there is no job in it", where=where, hint=HINT)
    seen: set[str] = set()
    for job in jobs:
        # A file system may take `A` and `a` for one.
        if job.name.lower() in seen:
            raise RecipeError(f"two jobs are named {job.name!r}", where=where, hint='give each its own: name = "…"')
        seen.add(job.name.lower())
    return tuple(jobs)
