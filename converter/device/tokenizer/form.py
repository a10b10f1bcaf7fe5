"""The form of the tables: two text files that a few lines of any language read, the same for every kind of tokenizer.

`vocab.txt` has a piece a line, in the order of the ids. `tokenizer.txt` has a row a line, its cells between tabs; the
first cell names the row. Rows that follow `normalize` or `split` and belong to that step stand below it. Characters
are code points in hexadecimal, spans of them `first-last`. `docs/howto/device-tokenizers.md` lists all rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLES_FILE = "tokenizer.txt"
VOCABULARY_FILE = "vocab.txt"
FORMAT = "plm-export-tokenizer\t2"
EARLIER_FORMAT = "plm-export-wordpiece\t1"
"""Of packages made before there were tables for other kinds than WordPiece: their own samples read it."""
Span = tuple[int, int]
"""The first and the last of a run of code points."""
Piece = tuple[str, int]
"""`A` or `B` and a type id, or a token id in digits and a type id."""
Row = tuple[str, ...]
Step = tuple[Row, ...]
"""One step of normalizing or splitting: its own row, and the rows of its tables."""


class NoTables(Exception):
    """The tokenizer cannot be written as tables; the message says why."""


@dataclass(frozen=True)
class Special:
    """A token that is found in the text as it is typed, before any word is cut."""

    content: str
    """As it is looked for: normalized, where it is looked for in normalized text."""
    id: int
    normalized: bool
    """Looked for in the normalized text."""
    left: bool
    """Takes the white space before it along."""
    right: bool
    special: bool
    """Left out of decoded text."""
    spelling: str
    """As decoded text shows it."""


@dataclass(frozen=True)
class Tables:
    """Everything that turns text into ids, and ids into text."""

    kind: str
    """`wordpiece`, `bpe` or `unigram`."""
    vocabulary: tuple[str, ...]
    model: tuple[Row, ...]
    """What the kind needs beside the pieces: the unknown token, merges, scores."""
    single: tuple[Piece, ...]
    pair: tuple[Piece, ...]
    specials: tuple[Special, ...]
    spaces: tuple[Span, ...]
    normalizer: tuple[Step, ...]
    splits: tuple[Step, ...]
    decoder: tuple[Row, ...]


def flat_parts(table: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """Yield the parts of a normalizer or a pre-tokenizer in order; `key` is where a `Sequence` of it has its own."""
    if table is None:
        return
    if table["type"] != "Sequence":
        yield table
        return
    for part in table[key]:
        yield from flat_parts(part, key)


def write_tables(tables: Tables, folder: Path) -> None:
    """Write `tokenizer.txt` and `vocab.txt`; the same tables give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [("kind", tables.kind), *tables.model]
    rows += [(name, " ".join(f"{i}:{t}" for i, t in getattr(tables, name))) for name in ("single", "pair")]
    rows += [_special_row(s) for s in tables.specials]
    rows.append(("spaces", spans_text(tables.spaces)))
    rows += [row for step in (*tables.normalizer, *tables.splits) for row in step]
    rows += tables.decoder
    # Bytes: no system's own line ends.
    text = "\n".join([FORMAT, *("\t".join(row) for row in rows)]) + "\n"
    (folder / TABLES_FILE).write_bytes(text.encode())
    (folder / VOCABULARY_FILE).write_bytes(("\n".join(map(escaped, tables.vocabulary)) + "\n").encode())


def _special_row(s: Special) -> Row:
    flags = "".join(str(int(flag)) for flag in (s.normalized, s.left, s.right, s.special))
    own = (escaped(s.spelling),) if s.spelling != s.content else ()
    return "special", str(s.id), flags, escaped(s.content), *own


def spans_text(spans: Sequence[Span]) -> str:
    """Return spans as one cell.

    >>> spans_text([(9, 13), (32, 32)])
    '9-d 20-20'
    """
    return " ".join(f"{a:x}-{b:x}" for a, b in spans)


def points_text(points: str | Iterable[int]) -> str:
    """Return characters as one cell.

    >>> points_text("a é")
    '61 20 e9'
    """
    return " ".join(f"{ord(c) if isinstance(c, str) else c:x}" for c in points)


def escaped(text: str) -> str:
    r"""Return text that fills one cell of a table: no tabs, no line ends.

    >>> escaped("a\tb")
    'a\\tb'
    """
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def unescaped(cell: str) -> str:
    """Return what `escaped` was given."""
    if "\\" not in cell:
        return cell
    letters = iter(cell)
    known = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return "".join(known[next(letters)] if c == "\\" else c for c in letters)
