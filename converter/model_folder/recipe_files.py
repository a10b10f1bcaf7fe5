"""The files that a recipe names, by their full paths: a recipe is run again from anywhere."""

from pathlib import Path
from typing import Any

from converter.model_folder.samples import is_sample

FILE_KEYS = ("calibration", "eval", "label_map")
"""Keys of a recipe that name files."""
FILE_OPTIONS = ("corpus", "tokens", "plan")
"""Options of stages that name files, or a folder with one, that are read."""
KEPT_OPTIONS = ("file",)
"""Options of stages that name files which a run writes, and a later one goes on with where they fit."""


def lay_paths(table: dict[str, Any], folder: Path) -> None:
    """Give the files that a recipe's table names their full path, in place; they are relative to `folder`."""
    for key in FILE_KEYS:
        if key in table:
            table[key] = _full(table[key], folder)
    for stage in table["compress"] if isinstance(table.get("compress"), list) else ():
        if isinstance(stage, dict):
            lay_files(stage, folder)


def lay_files(stage: dict[str, Any], folder: Path) -> None:
    """Give the files among a stage's options their full path, in place; they are relative to `folder`."""
    for key in (*FILE_OPTIONS, *KEPT_OPTIONS):
        if stage.get(key):
            value = stage[key]
            stage[key] = [_full(v, folder) for v in value] if isinstance(value, list) else _full(value, folder)


def model_path(text: str, folder: Path) -> str:
    """Return a model's folder by its full path; an id on the Hub, or a sample, as it is."""
    path = folder / Path(text).expanduser()
    return str(path.absolute()) if path.exists() or text.startswith((".", "/", "~")) else text


def _full(value: Any, folder: Path) -> Any:
    return str(folder / Path(value).expanduser()) if isinstance(value, str) and not is_sample(value) else value
