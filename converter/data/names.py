"""What a data set calls its columns and the model's labels: `--columns` and `--label-map FILE`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.documents import parse_json
from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded
from converter.errors import RecipeError, nearest

if TYPE_CHECKING:
    from converter.task import Task

LARGEST = 4 * MEGABYTE
SUFFIXES = (".json", ".toml", ".tsv")
ROLES = ("text", "pair", "label")
"""What a column can be named for; a question is `text`, its context `pair`, the answers `label`."""


def bind_columns(value: Any, where: str) -> dict[str, str]:
    """Check `{text = "review", label = "stars"}`, or the same as `text=review,label=stars`."""
    if isinstance(value, str):
        value = dict(part.partition("=")[::2] for part in value.split(",") if part.strip())
    if not isinstance(value, Mapping):
        raise RecipeError(f"wanted a table, found {value!r}", where=where, hint="text=NAME,label=NAME")
    made: dict[str, str] = {}
    for key, column in value.items():
        role = str(key).strip()
        if role not in ROLES:
            raise RecipeError(f"a column cannot be named for {role!r}", where=where, hint=nearest(role, ROLES))
        if not isinstance(column, str) or not column.strip():
            raise RecipeError(f"{role} wants the name of a column", where=where, hint="text=NAME,label=NAME")
        made[role] = column.strip()
    if "pair" in made and "text" not in made:
        raise RecipeError("pair is the second of two texts: name text too", where=where, hint="text=NAME,pair=NAME")
    if len(set(made.values())) < len(made):
        raise RecipeError("one column is named twice", where=where)
    return made


def bind_labels(value: Any, where: str) -> dict[str, str]:
    """Read the file of a label map, or check the table that a recipe holds; nothing given, nothing is called otherwise.

    Raises:
        RecipeError: as `read_label_map` does.

    """
    if value is None:
        return {}
    return read_label_map(Path(value).expanduser()) if isinstance(value, str) else bind_label_map(value, where)


def read_label_map(path: Path) -> dict[str, str]:
    """Read label of the data to label of the model (name or index; nothing: rows with it are left out).

    Raises:
        RecipeError: the file cannot be read, or is no such table; names the line where it has lines.

    """
    try:
        text = read_bounded(path, LARGEST).decode("utf-8-sig")
        match path.suffix.lower():
            case ".json":
                table = parse_json(text)
            case ".toml":
                table = tomllib.loads(text)
            case ".tsv":
                table = _pairs(text, path)
            case other:
                raise RecipeError(
                    f"the extension {other!r} is not known", where=str(path), hint=f"known: {', '.join(SUFFIXES)}"
                )
    except OSError as error:
        raise RecipeError(f"the label map cannot be read ({error.strerror})", where=str(path)) from None
    except (UnicodeDecodeError, UnfitFileError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"the label map cannot be read ({error})", where=str(path)) from None
    return bind_label_map(table, str(path))


def _pairs(text: str, path: Path) -> dict[str, str]:
    made: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 2:
            raise RecipeError(
                f"the line has {len(cells)} cells, wanted 2",
                where=f"{path}:{number}",
                hint="a label of the data, a tab, a label of the model; no header",
            )
        if cells[0].strip() in made:
            raise RecipeError(f"{cells[0].strip()!r} stands there twice", where=f"{path}:{number}")
        made[cells[0].strip()] = cells[1].strip()
    return made


def bind_label_map(table: Any, where: str) -> dict[str, str]:
    """Check a plain table: text or whole numbers on both sides, `null` or `""` for rows that are left out."""
    if not isinstance(table, Mapping) or not table:
        raise RecipeError("wanted a table of labels", where=where, hint='{"pos": "positive", "neg": "negative"}')
    made = {}
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
            raise RecipeError(
                f"{key!r} goes to {value!r:.40}", where=where, hint="to one of the model's labels, by name or index"
            )
        made[str(key).strip()] = "" if value is None else str(value).strip()
    return made


def check_label_map(label_map: Mapping[str, str], task: "Task") -> None:
    """Raise `RecipeError` for a label that is none of the model's, or a task that has no labels to name."""
    if not label_map:
        return
    if not task.label_kind:
        raise RecipeError(
            f"{task.name} with this model has no labels to name", where="--label-map", hint="leave it out"
        )
    for key, value in label_map.items():
        by_index = value.isdecimal() and int(value) < len(task.labels)
        if value and not by_index and value.lower() not in {name.lower() for name in task.labels}:
            raise RecipeError(
                f"{key!r} goes to {value!r}, which is no label of the model",
                where="--label-map",
                hint=nearest(value, task.labels),
            )
