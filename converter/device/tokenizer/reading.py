"""The shipped tables, read: what the tokenizer on the device starts from."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.device.tokenizer.form import EARLIER_FORMAT, FORMAT, TABLES_FILE, VOCABULARY_FILE, Special, unescaped

Char = tuple[int, int, int]
"""A code point of the normalized text, and the start and end of what it was made from in the text itself."""
Rows = list[list[str]]
OWN_STEP = {"normalize", "split"}
OF_A_STEP = {"drop", "space", "map", "order", "compose", "extend", "prepend", "control", "set", "part", "alternative"}


class Ranges:
    """A set of characters; those of ASCII are looked up at once."""

    def __init__(self, cell: str) -> None:
        spans = [tuple(int(x, 16) for x in part.split("-")) for part in cell.split()]
        self._starts = [a for a, _ in spans]
        self._ends = [b for _, b in spans]
        self._ascii = frozenset(c for a, b in spans for c in range(a, min(b, 127) + 1))

    def __contains__(self, c: int) -> bool:
        if c < 128:
            return c in self._ascii
        i = bisect_right(self._starts, c) - 1
        return i >= 0 and c <= self._ends[i]


@dataclass
class Step:
    """One step of normalizing or splitting, and the rows of its tables."""

    what: str
    name: str
    options: list[str]
    rows: Rows

    def rows_of(self, name: str) -> Iterator[list[str]]:
        return (row[1:] for row in self.rows if row[0] == name)

    def ranges(self, name: str) -> Ranges:
        return Ranges(" ".join(row[0] for row in self.rows_of(name)))

    def maps(self) -> dict[str, str]:
        return {text_of(row[0]): text_of(row[1]) for row in self.rows_of("map")}


class Read:
    """Both files of the tables."""

    def __init__(self, folder: Path) -> None:
        text = (folder / TABLES_FILE).read_bytes().decode()
        earlier = text.startswith(EARLIER_FORMAT + "\n")
        if not earlier and not text.startswith(FORMAT + "\n"):
            raise ValueError(f"{folder / TABLES_FILE} is of another format")
        self.cells: dict[str, list[str]] = {}
        self.specials: list[Special] = []
        self.steps: list[Step] = []
        rows = [line.split("\t") for line in text.split("\n")[1:-1]]
        for row in _renewed(rows) if earlier else rows:
            self._take(row)
        words = (folder / VOCABULARY_FILE).read_bytes().decode().removesuffix("\n").split("\n")
        self.vocabulary = words if earlier else [unescaped(word) for word in words]

    def _take(self, row: list[str]) -> None:
        if row[0] == "special":
            content = unescaped(row[3])
            normalized, left, right, special = (c == "1" for c in row[2])
            spelling = unescaped(row[4]) if row[4:] else content
            self.specials.append(Special(content, int(row[1]), normalized, left, right, special, spelling))
        elif row[0] in OWN_STEP:
            self.steps.append(Step(row[0], row[1], row[2:], []))
        elif row[0] in OF_A_STEP:
            self.steps[-1].rows.append(row)
        else:
            self.cells[row[0]] = row[1:]

    def template(self, name: str) -> list[tuple[str, int]]:
        return [(i, int(t)) for i, t in (part.split(":") for part in self.cells[name][0].split())]


def _renewed(rows: Rows) -> Iterator[list[str]]:
    """Return the rows of a WordPiece tokenizer as an earlier version wrote them in the form of today."""
    cells = {row[0]: row[1] for row in rows if row[0] not in {"special", "replace"}}
    yield ["kind", "wordpiece"]
    yield from ([name, cells[name]] for name in ("unknown", "prefix", "longest_word", "single", "pair", "spaces"))
    yield from ([*row[:2], f"{row[2]}1", row[3]] for row in rows if row[0] == "special")
    yield ["normalize", "characters", cells["hangul"]]
    yield from (["drop", cells["dropped"]], ["space", cells["spaced"]])
    yield from (["map", *row[1:]] for row in rows if row[0] == "replace")
    for name, behavior in (("spaces", "removed"), ("alone", "isolated")):
        yield from (["split", "pattern", behavior, "0"], ["set", cells[name]], ["alternative", "0:1:1"])


def text_of(cell: str) -> str:
    """Return the text that a cell's code points spell."""
    return "".join(chr(int(x, 16)) for x in cell.split())


def spelled(chars: list[Char]) -> str:
    return "".join(chr(c) for c, _, _ in chars)
