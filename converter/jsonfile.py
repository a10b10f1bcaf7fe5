"""JSON files, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from converter.errors import SourceError


def read_json(path: Path) -> Any:
    """Read `path`; `SourceError` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError("the file is missing", where=str(path), hint="fetch the whole folder again") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(
            f"not a JSON file ({error})", where=str(path), hint="the file is damaged or cut off"
        ) from None


def json_text(value: object) -> str:
    """Return sorted, indented JSON with a final newline: the same value gives the same text."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write `json_text` of a value: the same value gives the same bytes."""
    path.write_text(json_text(value), encoding="utf-8")
