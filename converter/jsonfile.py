"""JSON files, with errors that name the file."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.bounds.documents import parse_json
from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded
from converter.errors import SourceError

MAX_BYTES = 16 * MEGABYTE
"""Of a model's configuration, or the index of its weights: one with 100 000 labels, or tensors, has about 8 MB."""


def read_json(path: Path, *, limit: int = MAX_BYTES) -> Any:
    """Read `path`; `SourceError` where it is missing, larger than `limit` bytes, or no JSON that can be read."""
    try:
        return parse_json(read_bounded(path, limit))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError("the file is missing", where=str(path), hint="download the whole folder again") from None
    except (UnfitFileError, OSError) as error:
        raise SourceError(
            f"not a JSON file ({error})", where=str(path), hint="the file is damaged or incomplete"
        ) from None


def json_values(value: Any) -> Any:  # noqa: PLR0911 - one return a kind of value
    """Return nested tables and lists as JSON values.

    Numbers of numpy become Python's; what is not finite becomes null, as JSON has no NaN; half a surrogate pair, which
    cannot be written, becomes a question mark; what else is unknown becomes its text.
    """
    if isinstance(value, Mapping):
        return {str(k): json_values(v) for k, v in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Sequence):
        return [json_values(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [json_values(v) for v in sorted(value, key=str)]  # a set has no order of its own
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    item = getattr(value, "item", None)
    return str(value) if item is None else json_values(item())


def read_table(path: Path) -> dict[str, Any]:
    """Read `path`, which must hold an object; `SourceError` where it does not."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise SourceError(f"wanted a table, found {type(table).__name__}", where=str(path), hint="the file is damaged")
    return table


def json_text(value: object) -> str:
    """Return sorted, indented JSON with a final newline: the same value gives the same text."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write `json_text` of a value: the same value gives the same bytes."""
    path.write_text(json_text(value), encoding="utf-8")
