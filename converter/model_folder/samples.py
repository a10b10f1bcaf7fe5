"""`sample:NAME` as a model or recipe, `sample:NAME/FILE` as data: `sample_models/` is imported only when asked for."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import DataError, RecipeError, nearest

if TYPE_CHECKING:
    from converter.stage import Progress

PREFIX = "sample:"


def is_sample(text: str) -> bool:
    return text.startswith(PREFIX)


def resolve_model(model: str, progress: "Progress") -> str:
    """Return the folder of `sample:NAME`, making it first where needed; anything else is returned as it is."""
    if not is_sample(model):
        return model
    sample_models = _sample_models()

    name = model.removeprefix(PREFIX)
    if name == sample_models.DEFAULT:
        progress.note(f"The bundled sample is sample:{sample_models.default_name()}")
    return str(sample_models.folder(name, progress))


def own_evaluation(model: str) -> Path | None:
    """Return the file that a sample is judged by where the recipe names none; None for any other model."""
    if not is_sample(model):
        return None
    sample_models = _sample_models()

    name = model.removeprefix(PREFIX)
    file = sample_models.evaluation(name)
    return Path(f"{PREFIX}{name}/{file}") if file is not None else None


def resolve_data(path: Path, progress: "Progress") -> Path:
    """Return the file of `sample:NAME/FILE`; anything else is returned as it is.

    Raises:
        DataError: the sample has no such file; its own are named.

    """
    if not is_sample(str(path)):
        return path
    sample_models = _sample_models()

    name, _, file = str(path).removeprefix(PREFIX).partition("/")
    folder = sample_models.folder(name, progress)
    own = sorted(f.name for f in folder.iterdir() if f.suffix in {".tsv", ".jsonl", ".csv", ".txt"})
    if file not in own:
        raise DataError(f"the sample {name} has no file {file!r}", where=str(path), hint=nearest(file, own))
    return folder / file


def resolve_recipe(path: Path) -> Path:
    """Return the file of `sample:NAME`, a recipe that comes with this tool; anything else is returned as it is.

    Raises:
        RecipeError: there is no such recipe; the nearest is named.

    """
    if not is_sample(str(path)):
        return path
    sample_models = _sample_models()

    name, known = str(path).removeprefix(PREFIX), sample_models.recipes()
    if name not in known:
        raise RecipeError(f"there is no sample recipe {name!r}", where=str(path), hint=nearest(name, known))
    return known[name]


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with this tool, by name."""
    return dict(_sample_models().recipes())


def _sample_models() -> Any:
    """Samples are found as targets are, by the name of their folder: nothing in `converter` depends on them."""
    return importlib.import_module("sample_models")
