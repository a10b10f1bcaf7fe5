"""What a `.txt` may hold: a text a line, fastText's `__label__x` before each, or CoNLL's words and tags in columns."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

from converter.data.columns import Row
from converter.errors import DataError

Lines = Callable[[], Iterable[tuple[int, str]]]
"""Opens the file anew and gives line numbers and lines, their ends included."""
FASTTEXT = "__label__"
DOCUMENT = "-DOCSTART-"
LOOKED_AT = 200
"""Lines that tell whether a file is CoNLL's."""
_LABELS = re.compile(rf"(?:{FASTTEXT}[^ ]*[ ,]*)*")
_TAG = re.compile(r"^(O|[BIESLUM][-_]\S+)$")


def read_text_rows(
    path: Path, lines: Lines, tags: Collection[str] = (), *, conll: bool = True
) -> Iterator[tuple[str, Row]]:
    """Yield `file:line` and the row there; `conll`: look for its columns; `tags` are those that a tagger knows.

    Raises:
        DataError: a line of a CoNLL file lacks columns.

    """
    first = next((line for _, line in lines() if line.strip()), "")
    if first.startswith(FASTTEXT):
        return _fasttext(path, lines())
    if conll and _is_conll(lines(), tags):
        return _conll(path, lines())
    return _plain(path, lines())


def _plain(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Row]]:
    for number, line in lines:
        text = line.rstrip("\r\n")
        if text.strip():
            yield f"{path}:{number}", {"text": text}


def _fasttext(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Row]]:
    """Yield text and labels: one as it is, several as a list, none (a line that has none) as nothing."""
    for number, line in lines:
        text = line.strip()
        head = _LABELS.match(text)
        assert head is not None
        labels = [word.removeprefix(FASTTEXT).rstrip(",") for word in head[0].replace(" ,", " ").split()]
        text = text[head.end() :]
        if text or labels:
            yield f"{path}:{number}", {"text": text, "label": labels[0] if len(labels) == 1 else labels or None}


def _is_conll(lines: Iterable[tuple[int, str]], tags: Collection[str]) -> bool:
    """Tell by the same number of columns in every line, two at least, the last of which are tags."""
    rows = [_cells(line) for _, line in islice(lines, LOOKED_AT) if line.strip()]
    if rows and rows[0][0] == DOCUMENT:
        return True
    return (
        bool(rows)
        and len({len(row) for row in rows}) == 1
        and len(rows[0]) > 1
        and all(_TAG.match(row[-1]) or row[-1] in tags for row in rows)
    )


def _conll(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Row]]:
    """Yield a sentence a row, named by its first line: words from the first column, tags from the last."""
    words: list[str] = []
    tags: list[str] = []
    start, columns = 0, 0
    for number, line in lines:
        cells = _cells(line)
        if not cells or cells[0] == DOCUMENT:
            if words:
                yield f"{path}:{start}", {"tokens": words, "ner_tags": tags}
            words, tags = [], []
            continue
        columns = columns or len(cells)
        if len(cells) != columns or columns < 2:
            raise DataError(
                f"the line has {len(cells)} columns, the first one {columns}",
                where=f"{path}:{number}",
                hint="CoNLL's form: a word a line, its tag in the last column, a blank line after each sentence",
            )
        start = start if words else number
        words.append(cells[0])
        tags.append(cells[-1])
    if words:
        yield f"{path}:{start}", {"tokens": words, "ner_tags": tags}


def _cells(line: str) -> list[str]:
    """Split at tabs where the line has any (a word may hold a space), else at white space."""
    line = line.strip()
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
