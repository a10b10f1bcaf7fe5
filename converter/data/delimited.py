"""Tables of text: comma separated with quotes, tab separated with or without."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.errors import DataError

_NUMBER = re.compile(r"^-?\d+(\.\d+)?$")
LARGEST_CELL = 16_000_000
Lines = Callable[[], Iterable[str]]
"""Opens the file anew and gives its lines, their ends included."""


def read_delimited(path: Path, lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line it starts on; blank lines are passed over.

    Raises:
        DataError: quotes that do not close.

    """
    if path.suffix.lower() == ".tsv" and not is_quoted(lines):
        for number, line in enumerate(lines(), 1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split("\t")
        return
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with _large_cells():
        yield from _quoted_rows(path, lines(), delimiter)


def _quoted_rows(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"unbalanced quotes ({error})",
                where=f"{path}:{start}",
                hint='a quote inside a quoted cell is written twice: ""',
            ) from None
        if row:
            yield start, row


def is_quoted(lines: Lines) -> bool:
    """Tell whether a tab-separated file was written with quotes, as pandas does, or holds them as text, as GLUE does.

    It was, if every record with a quote is exactly what a CSV writer makes of its cells (quotes where needed, or around
    all but numbers). A sentence that merely stands in quotation marks is not: no writer would have quoted it.
    """
    seen: list[str] = []
    styles: list[Callable[[list[str]], str]] = [_minimally_quoted, _all_quoted, _text_quoted]
    found = False
    with _large_cells():
        reader = csv.reader(_recorded(lines(), seen), delimiter="\t", strict=True)
        try:
            for row in reader:
                record = "".join(seen).rstrip("\r\n")
                seen.clear()
                if '"' not in record:
                    continue
                found = True
                styles = [style for style in styles if style(row) == record]
                if not styles:
                    return False
        except csv.Error:
            return False
    return found


def _recorded(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


class _Line:
    """Keeps the one line that a CSV writer writes."""

    text = ""

    def write(self, text: str) -> int:
        self.text = text
        return len(text)


def _minimally_quoted(row: list[str]) -> str:
    line = _Line()
    csv.writer(line, delimiter="\t", lineterminator="").writerow(row)
    return line.text


def _all_quoted(row: list[str]) -> str:
    return "\t".join(_quote(cell) for cell in row)


def _text_quoted(row: list[str]) -> str:
    return "\t".join(cell if _NUMBER.match(cell) else _quote(cell) for cell in row)


def _quote(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@contextmanager
def _large_cells() -> Iterator[None]:
    """Allow cells of any size for a while: the module's limit of 128 KiB is less than a long context."""
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
