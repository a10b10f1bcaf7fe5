"""Evaluation and calibration files: a text a line, JSON, JSON lines, or tables with the columns of GLUE and its kin."""

import contextlib
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.columns import KNOWN, Row, misspelled, texts_of_row
from converter.data.delimited import read_table
from converter.errors import DataError
from converter.examples import Example

if TYPE_CHECKING:
    from converter.task import Task

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv")
Located = tuple[str, Row]
"""`file:line`, and the row there with lower-case column names."""


def read_examples(path: Path, task: "Task") -> tuple[Example, ...]:
    """Read `path` as `task` needs it; rows are read one at a time, in the file's order.

    A `.txt` has no labels: it calibrates, and judges agreement, but no metric comes of it.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    made: list[Example] = []
    with _refusals(path):
        for where, row in _rows(path):
            if not made:
                _refuse_misspelled(row, where)
            made += task.examples_of(row, where)
    if not made:
        raise DataError("the file holds no row", where=str(path), hint="give at least one text")
    examples = tuple(made)
    task.check_labels(examples)
    return examples


def read_texts(path: Path) -> Iterator[str]:
    """Yield every text of `path`, whatever its labels are and whatever task they are for.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    n_texts = 0
    with _refusals(path):
        for where, row in _rows(path):
            for text in texts_of_row(row, where):
                n_texts += 1
                yield text
    if not n_texts:
        raise DataError("the file holds no text", where=str(path), hint="give at least one text")


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Say of which file it was that the table or the disk refused."""
    try:
        yield
    except csv.Error as error:
        raise DataError(f"the table cannot be read ({error})", where=str(path)) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", where=str(path)) from None


def _rows(path: Path) -> Iterator[Located]:
    if path.is_dir():
        raise DataError("this is a folder", where=str(path), hint=f"give one file: {', '.join(SUFFIXES)}")
    if not path.exists():
        raise DataError("no such file", where=str(path), hint=_near(path))
    match path.suffix.lower():
        case ".txt":
            return _text_rows(path)
        case ".jsonl":
            return _json_lines(path)
        case ".json":
            return _json_rows(path)
        case ".csv" | ".tsv":
            return _table_rows(path)
        case other:
            raise DataError(
                f"the extension {other!r} is not known", where=str(path), hint=f"known: {', '.join(SUFFIXES)}"
            )


def _near(path: Path) -> str:
    import difflib

    beside = [f.name for f in path.parent.iterdir() if f.is_file()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"did you mean {close[0]!r}?" if close else "check the path"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and line (its end included), decoded from UTF-8 with or without a byte order mark.

    Raises:
        DataError: a byte is no UTF-8; names the line, the byte and what the file may be instead.

    """
    with path.open("rb") as opened:
        for number, raw in enumerate(opened, 1):
            if number == 1 and raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                raise DataError("the file is UTF-16", where=f"{path}:1", hint="save it as UTF-8")
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8",
                    where=f"{path}:{number}",
                    hint="save the file as UTF-8 (it may be Latin-1 or Windows-1252 now)",
                ) from None


def _text_rows(path: Path) -> Iterator[Located]:
    for number, line in read_lines(path):
        text = line.rstrip("\r\n")
        if text.strip():
            yield f"{path}:{number}", {"text": text}


def _json_lines(path: Path) -> Iterator[Located]:
    for number, line in read_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _json_row(_parsed(line, where), where)


def _json_rows(path: Path) -> Iterator[Located]:
    """Read a list of rows, or SQuAD's nesting of `data`, `paragraphs` and `qas`."""
    content = "".join(line for _, line in read_lines(path))
    found = _parsed(content, str(path))
    rows = found["data"] if isinstance(found, dict) and "data" in found else found
    if not isinstance(rows, list):
        raise DataError("this is not a list of rows", where=str(path), hint="one row a line is a .jsonl file")
    for i, row in enumerate(rows, 1):
        if isinstance(row, dict) and isinstance(row.get("paragraphs"), list):
            yield from _squad_rows(row["paragraphs"], f"{path}: article {i}")
        else:
            where = f"{path}: row {i}"
            yield where, _json_row(row, where)


def _squad_rows(paragraphs: Iterable[Any], where: str) -> Iterator[Located]:
    for i, paragraph in enumerate(paragraphs, 1):
        here = f"{where}, paragraph {i}"
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            raise DataError("a paragraph needs context and qas", where=here)
        for k, question in enumerate(paragraph["qas"], 1):
            row = _json_row(question, f"{here}, question {k}")
            yield f"{here}, question {k}", {**row, "context": paragraph.get("context")}


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg}, column {error.colno})", where=where) from None
    except RecursionError:
        raise DataError("not a row: nested too deep", where=where) from None


def _json_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"a row is {type(value).__name__}, wanted an object", where=where, hint='such as {"text": "…", "label": 1}'
        )
    return {str(k).strip().lower(): v for k, v in value.items()}


def _table_rows(path: Path) -> Iterator[Located]:
    rows = read_table(path, lambda: (line for _, line in read_lines(path)))
    _, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    _check_header(columns, path)
    for number, cells in rows:
        where = f"{path}:{number}"
        if len(cells) != len(columns):
            raise DataError(
                f"the row has {len(cells)} cells, the header {len(columns)}",
                where=where,
                hint="a cell that holds the separator or a line break needs quotes"
                if path.suffix.lower() == ".csv"
                else "tabs part cells: a text must not hold one",
            )
        yield where, dict(zip(columns, cells, strict=True))


def _check_header(columns: list[str], path: Path) -> None:
    where = f"{path}:1"
    if not columns:
        raise DataError("the file is empty", where=str(path))
    if not any(name in KNOWN for name in columns):
        raise DataError(
            f"no column is known: found {', '.join(c[:40] for c in columns[:8])}",
            where=where,
            hint=_header_hint(columns),
        )
    twice = [name for name in columns if columns.count(name) > 1 and name in KNOWN]
    if twice:
        raise DataError(f"two columns are named {twice[0]!r}", where=where)


def _header_hint(columns: list[str]) -> str:
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        return "its cells seem to be parted by something else: commas part a .csv, tabs a .tsv"
    if any(" " in name or name.lstrip("-").isdecimal() for name in columns):
        return "the file seems to lack its header: put a first line such as sentence and label above it"
    return "wanted such as sentence (or text) and label, or sentence1, sentence2 and score"


def _refuse_misspelled(row: Row, where: str) -> None:
    found = misspelled(row)
    if found:
        raise DataError(
            f"the column {found[0]!r} is not known",
            where=where,
            hint=f"did you mean {found[1]!r}? rename it, or drop it where the rows are to have no label",
        )
