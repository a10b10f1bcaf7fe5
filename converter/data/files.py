"""Evaluation and calibration files: a text a line, JSON, JSON lines, or tables with the columns of GLUE and its kin."""

import contextlib
import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.documents import parse_json
from converter.bounds.files import MEGABYTE, UnfitFileError, open_regular, read_bounded
from converter.data.columns import KNOWN, Row, misspelled, texts_of_row
from converter.data.delimited import read_delimited
from converter.data.names import check_label_map
from converter.data.survey import MORE_LABELS, MORE_TAGS, MOST_COLUMNS, DataOptions, Layout, Located, survey
from converter.data.text_lines import read_text_rows
from converter.errors import DataError
from converter.examples import Example

if TYPE_CHECKING:
    from converter.task import Task

LINES = (".txt", ".conll", ".bio", ".iob", ".iob2")
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".conll")
AS_IT_IS = DataOptions()
Known = Callable[[str], bool]
"""Tells whether a table's first line, by one of its cells, is a header."""
LONGEST_LINE = 16 * MEGABYTE
LINES_HINT = "a text a line; one JSON object a line (.jsonl); a row a line (.csv, .tsv)"
LARGEST_JSON, MOST_VALUES = 128 * MEGABYTE, 4_000_000
"""Of a whole file of JSON, which is read at once; one row a line (.jsonl) may be of any length."""


@dataclass(frozen=True)
class Data:
    """What a file holds, and what a user must know of how it was read (sentences, without a path)."""

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def read_examples(path: Path, task: "Task") -> tuple[Example, ...]:
    """Read `path` as `task` needs it, in the file's order.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    return read_data(path, task).examples


def read_data(path: Path, task: "Task", options: DataOptions = AS_IT_IS, *, judged: bool = False) -> Data:
    """Read `path` as `task` needs it and say how: the columns taken, what was left out, what was not read.

    It is read twice, a row at a time: how a column is to be read depends on all of its rows. `judged`: it is what
    models are judged by, so that labels are looked for in earnest.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    check_label_map(options.label_map, task)
    made: list[Example] = []
    left_out = 0
    with _refusals(path):
        known, bare = _header(path, task, options)

        def rows() -> Iterator[Located]:
            return ((where, task.row_of(row)) for where, row in _rows(path, task, known, bare))

        layout = survey(rows(), task, options, path.name)
        for where, row in rows():
            if not made:
                _refuse_misspelled(row, where, layout)
            read = layout.apply(row, where)
            left_out += read is None
            made += task.examples_of(read, where) if read is not None else ()
    if not made:
        raise DataError("the file holds no row", where=str(path), hint="give at least one text")
    examples = tuple(made)
    task.check_labels(examples)
    header = (f"{path.name} has no header: its columns are read as {' and '.join(bare)}",) if bare else ()
    return Data(examples, (*header, *layout.notes, *_notes(path.name, layout, examples, left_out, judged=judged)))


def located_rows(path: Path, task: "Task", options: DataOptions = AS_IT_IS) -> Iterator[Located]:
    """Yield each row as the file has it, and where it stands: what `Example.where` (or `group`) says.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    with _refusals(path):
        known, bare = _header(path, task, options)
        yield from _rows(path, task, known, bare)


def _header(path: Path, task: "Task", options: DataOptions) -> tuple[Known, tuple[str, ...]]:
    """Return what tells a header of a table, and the columns of one that has none."""
    known = _known(task, options)
    is_bare = not options.columns and _is_bare(path, known, task.bare_columns)
    return known, task.bare_columns if is_bare else ()


def _known(task: "Task", options: DataOptions) -> Known:
    """Return what tells a table's first line for a header."""
    labels = (name.strip().lower() for name in (*task.labels, *options.columns.values(), *options.label_map))
    names = KNOWN | {*labels, *MORE_LABELS, *MORE_TAGS}
    return lambda name: name in names or task.knows_column(name)


def _is_bare(path: Path, known: Known, columns: tuple[str, ...]) -> bool:
    """Tell whether a tab-separated file begins with its first row: as many cells as `columns`, no name among them."""
    if not columns or path.suffix.lower() != ".tsv" or not path.is_file():
        return False
    _, first = next(read_delimited(path, lambda: (line for _, line in read_lines(path))), (1, []))
    return len(first) == len(columns) and not any(known(cell.strip().lower()) for cell in first)


def _notes(name: str, layout: Layout, examples: tuple[Example, ...], left_out: int, *, judged: bool) -> Iterator[str]:
    if left_out:
        yield f"{name}: rows left out, since their label (or --label-map) says that they have none: {left_out}"
    if not judged:
        return
    none = sum(e.label is None for e in examples)
    if none and none < len(examples):
        yield f"{name}: {none} of {len(examples)} texts have no label and count for no metric"
    if none == len(examples):
        unread = f"; columns that are not read: {', '.join(layout.unread[:12])}" if layout.unread else ""
        hint = " (--columns label=NAME takes one for the labels)" if layout.unread else ""
        yield f"{name} has no labels that are read, so there is no metric{unread}{hint}"


def read_texts(path: Path) -> Iterator[str]:
    """Yield every text of `path`, whatever its labels are and whatever task they are for.

    Raises:
        DataError: the file or a row cannot be used; says which and why.

    """
    n_texts = 0
    with _refusals(path):
        for where, row in _rows(path, None, KNOWN.__contains__):
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
    except UnfitFileError as error:
        raise DataError(str(error), where=str(path), hint=f"give one file: {', '.join(SUFFIXES)}") from None
    except csv.Error as error:
        raise DataError(f"the table cannot be read ({error})", where=str(path)) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", where=str(path)) from None


def _rows(path: Path, task: "Task | None", known: Known, bare: tuple[str, ...] = ()) -> Iterator[Located]:
    check_present(path)
    match path.suffix.lower():
        case suffix if suffix in LINES:
            tags = task.labels if task is not None and task.label_kind == "tags" else ()
            return read_text_rows(path, lambda: read_lines(path), tags, conll=task is None or bool(tags))
        case ".jsonl":
            return _json_lines(path)
        case ".json":
            return _json_rows(path)
        case ".csv" | ".tsv":
            return _table_rows(path, known, bare)
        case other:
            raise DataError(
                f"the extension {other!r} is not known", where=str(path), hint=f"known: {', '.join(SUFFIXES)}"
            )


def check_present(path: Path) -> None:
    """Refuse a path with nothing there, or a folder.

    Raises:
        DataError: says which of the two, and what is called alike.

    """
    if path.is_dir():
        raise DataError("this is a folder", where=str(path), hint=f"give one file: {', '.join(SUFFIXES)}")
    if not path.exists():
        raise DataError("no such file", where=str(path), hint=_near(path))


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
    with open_regular(path) as opened:
        for number, raw in enumerate(iter(lambda: opened.readline(LONGEST_LINE + 1), b""), 1):
            if len(raw) > LONGEST_LINE:
                raise DataError(
                    f"the line has more than {LONGEST_LINE // MEGABYTE} MB", where=f"{path}:{number}", hint=LINES_HINT
                )
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


def _json_lines(path: Path) -> Iterator[Located]:
    for number, line in read_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _json_row(_parsed(line, where), where)


def _json_rows(path: Path) -> Iterator[Located]:
    """Read a list of rows, or SQuAD's nesting of `data`, `paragraphs` and `qas`."""
    found = _parsed(read_bounded(path, LARGEST_JSON), str(path))
    rows = found["data"] if isinstance(found, dict) and "data" in found else found
    if not isinstance(rows, list):
        raise DataError(
            "this is not a list of rows", where=str(path), hint="for one JSON object per line, name the file .jsonl"
        )
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


def _parsed(content: bytes | str, where: str) -> Any:
    try:
        return parse_json(content, max_values=MOST_VALUES, byte_order_mark=True)
    except UnfitFileError as error:
        raise DataError(f"not JSON ({error})", where=where) from None


def _json_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"a row is {type(value).__name__}, wanted an object", where=where, hint='such as {"text": "…", "label": 1}'
        )
    return {str(k).strip().lower(): v for k, v in value.items()}


def _table_rows(path: Path, known: Known, bare: tuple[str, ...] = ()) -> Iterator[Located]:
    rows = read_delimited(path, lambda: (line for _, line in read_lines(path)))
    columns = list(bare)
    if not bare:
        _, header = next(rows, (1, []))
        columns = [name.strip().lower() for name in header]
        _check_header(columns, path, known)
    for number, cells in rows:
        where = f"{path}:{number}"
        if len(cells) != len(columns):
            raise DataError(
                f"the row has {len(cells)} cells, the header {len(columns)}",
                where=where,
                hint="a cell that holds the separator or a line break needs quotes"
                if path.suffix.lower() == ".csv"
                else "a .tsv file separates columns with tabs: replace the tabs inside texts",
            )
        yield where, dict(zip(columns, cells, strict=True))


def _check_header(columns: list[str], path: Path, known: Known) -> None:
    where = f"{path}:1"
    if not columns:
        raise DataError("the file is empty", where=str(path))
    if len(columns) > MOST_COLUMNS:
        raise DataError(f"the table has {len(columns)} columns, at most {MOST_COLUMNS} are read", where=where)
    if not any(known(name) for name in columns):
        raise DataError(
            f"no known column: found {', '.join(c[:40] for c in columns[:8])}",
            where=where,
            hint=_header_hint(columns),
        )
    twice = next((name for name, n in Counter(columns).items() if n > 1 and known(name)), None)
    if twice is not None:
        raise DataError(f"two columns are named {twice!r}", where=where)


def _header_hint(columns: list[str]) -> str:
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|,"):
        return "wrong separator? a .csv file uses commas, a .tsv file tabs"
    if any(" " in name or name.lstrip("-").isdecimal() for name in columns):
        return "is the header missing? add a first line such as sentence and label (source and target for a translator)"
    return (
        "wanted such as sentence (or text) and label, sentence1, sentence2 and score, or source and target for a model "
        "that writes; --columns text=NAME,label=NAME says which column is what"
    )


def _refuse_misspelled(row: Row, where: str, layout: Layout) -> None:
    found = misspelled(row)
    if found and not layout.label and not layout.one_each and not layout.task.knows_column(found[0]):
        raise DataError(
            f"the column {found[0]!r} is not known",
            where=where,
            hint=f"did you mean {found[1]!r}? rename it, or remove it if the rows have no label",
        )
