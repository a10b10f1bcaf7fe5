"""One file of text in two: rows to learn from, and rows that are held back to choose by."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.files import located_rows, read_data
from converter.data.survey import DataOptions
from converter.errors import DataError
from converter.examples import Example, text_key

if TYPE_CHECKING:
    from converter.task import Task

LEAST = 20
"""Texts on either side."""


@dataclass(frozen=True)
class TextSplit:
    """The two files (a JSON object a line) and how many texts are in each."""

    learning: Path
    held_back: Path
    n_learning: int
    n_held_back: int
    digest: str
    """SHA-256 of the two files."""

    def table(self) -> dict[str, Any]:
        return {
            "learning": self.learning.name,
            "tuning": self.held_back.name,
            "n_learning": self.n_learning,
            "n_tuning": self.n_held_back,
            "sha256": self.digest,
        }


def split_text(
    path: Path, task: "Task", options: DataOptions, folder: Path, *, share: float, most: int, seed: int
) -> TextSplit:
    """Write the rows of `path` into two files in `folder`; `share` of the texts, at most `most`, are held back.

    Equal texts stay together, so that nothing that is learned is chosen by. The same file and seed give the same two
    files.

    Raises:
        DataError: the file cannot be used, has too few texts, or rows that cannot be told apart.

    """
    read = read_data(path, task, options)
    rows = dict(located_rows(path, task, options))
    keys = _keys(read.examples)
    if set(keys) - set(rows):
        raise DataError("its rows cannot be told apart", where=str(path), hint="give one JSON object a line (.jsonl)")
    groups = list(dict.fromkeys(keys.values()))
    n_held = min(most, round(share * len(groups)))
    if min(n_held, len(groups) - n_held) < LEAST:
        raise DataError(
            f"{len(groups)} different texts are too few to learn from some and choose by others",
            where=str(path),
            hint=f"give at least {round(LEAST / share)}",
        )
    held = set(sorted(groups, key=lambda g: _drawn(g, seed))[:n_held])
    chosen = [(w, r) for w, r in rows.items() if w in keys]
    paths = (folder / "learning.jsonl", folder / "tuning.jsonl")
    sides = ([r for w, r in chosen if keys[w] not in held], [r for w, r in chosen if keys[w] in held])
    for file, side in zip(paths, sides, strict=True):
        _write(file, side)
    made = [read_data(file, task, options).examples for file in paths]
    if sorted(map(_whole, (e for side in made for e in side))) != sorted(map(_whole, read.examples)):
        raise DataError(
            "its rows read otherwise in two files", where=str(path), hint="give --columns, or a .jsonl file"
        )
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in paths)).hexdigest()
    return TextSplit(*paths, len(made[0]), len(made[1]), digest)


def _keys(examples: Iterable[Example]) -> dict[str, tuple[Any, ...]]:
    """Return what tells the text of each row, by where the row stands."""
    made: dict[str, tuple[Any, ...]] = {}
    for example in examples:
        row = example.group or example.where  # both texts of a pair are one row
        made[row] = (*made.get(row, ()), *text_key(example))
    return made


def _drawn(key: tuple[Any, ...], seed: int) -> str:
    return hashlib.sha256(repr((seed, key)).encode("utf-8", "replace")).hexdigest()


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for row in rows:
            opened.write(json.dumps(row, ensure_ascii=True) + "\n")


def _whole(example: Example) -> str:
    return repr(replace(example, where="", group=""))
