"""The tokenizer of the samples, in Python: it reads the shipped tables, and does what the samples do.

It is what the parity proof runs; the samples in Java, C++ and Swift are the same lines in other words.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.device.tables import FORMAT, HANGUL, TABLES_FILE, VOCABULARY_FILE, Piece, Special, unescaped

Char = tuple[int, int, int]
"""A code point of the normalized text, and the start and end of what it was made from in the text itself."""


@dataclass(frozen=True)
class Token:
    """A token id, and where in the text it came from."""

    id: int
    start: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """What the model is fed, without padding."""

    ids: list[int]
    types: list[int]


class _Ranges:
    def __init__(self, cell: str) -> None:
        spans = [tuple(int(x, 16) for x in part.split("-")) for part in cell.split()]
        self._starts = [a for a, _ in spans]
        self._ends = [b for _, b in spans]

    def __contains__(self, c: int) -> bool:
        i = bisect_right(self._starts, c) - 1
        return i >= 0 and c <= self._ends[i]


class DeviceTokenizer:
    """WordPiece (Schuster and Nakajima, 2012; greedy longest match as in Devlin et al., arXiv 1810.04805) by tables."""

    def __init__(self, folder: Path) -> None:
        text = (folder / TABLES_FILE).read_bytes().decode()
        if not text.startswith(FORMAT + "\n"):
            raise ValueError(f"{folder / TABLES_FILE} is of another format")
        rows = [line.split("\t") for line in text.split("\n")[1:-1]]
        cells = {row[0]: row[1] for row in rows if row[0] not in {"special", "replace"}}
        self._vocabulary = {
            token: i
            for i, token in enumerate((folder / VOCABULARY_FILE).read_bytes().decode().removesuffix("\n").split("\n"))
        }
        self._unknown = int(cells["unknown"])
        self._prefix = cells["prefix"]
        self._longest_word = int(cells["longest_word"])
        self._hangul = cells["hangul"] == "1"
        self._templates = {
            name: [(i, int(t)) for i, t in (part.split(":") for part in cells[name].split())]
            for name in ("single", "pair")
        }
        self._specials = [
            Special(unescaped(r[3]), int(r[1]), *(c == "1" for c in r[2])) for r in rows if r[0] == "special"
        ]
        self._spaces, self._alone, self._dropped, self._spaced = (
            _Ranges(cells[name]) for name in ("spaces", "alone", "dropped", "spaced")
        )
        self._replaced = {int(r[1], 16): [int(x, 16) for x in r[2].split()] for r in rows if r[0] == "replace"}

    def encode(self, text: str, pair: str | None, max_length: int, *, only_second: bool = False) -> Encoded:
        """Return ids and type ids, cut to `max_length`: the longer text first, or `only_second` the second alone."""
        parts = [self.tokens(text), [] if pair is None else self.tokens(pair)]
        template = self._templates["single" if pair is None else "pair"]
        room = max_length - sum(name not in {"A", "B"} for name, _ in template)
        keep = _kept(len(parts[0]), len(parts[1]), room, only_second=only_second and pair is not None)
        return _filled(template, [[t.id for t in p[:n]] for p, n in zip(parts, keep, strict=True)])

    def tokens(self, text: str) -> list[Token]:
        """Cut one text, without special tokens around it."""
        made: list[Token] = []
        raw = [(ord(c), i, i + 1) for i, c in enumerate(text)]
        for chunk in self._split(raw, normalized=False):
            if isinstance(chunk, Token):
                made.append(chunk)
                continue
            for part in self._split(self._normalize(chunk), normalized=True):
                made += [part] if isinstance(part, Token) else self._words(part)
        return made

    def _split(self, chars: list[Char], *, normalized: bool) -> Iterator[Token | list[Char]]:
        """Cut special tokens out: the leftmost first, the longest of those that begin there."""
        wanted = [s for s in self._specials if s.normalized == normalized and s.content]
        begin = i = 0
        while i < len(chars):
            found = max(
                (s for s in wanted if _matches(chars, i, s.content)), key=lambda s: len(s.content), default=None
            )
            if found is None:
                i += 1
                continue
            start, end = i, i + len(found.content)
            while found.left and start > begin and chars[start - 1][0] in self._spaces:
                start -= 1
            while found.right and end < len(chars) and chars[end][0] in self._spaces:
                end += 1
            if start > begin:
                yield chars[begin:start]
            yield Token(found.id, chars[start][1], chars[end - 1][2])
            begin = i = end
        if begin < len(chars):
            yield chars[begin:]

    def _normalize(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        for c, start, end in chars:
            if c in self._dropped:
                continue
            if c in self._replaced:
                made += [(x, start, end) for x in self._replaced[c]]
            elif self._hangul and c in HANGUL:
                made += [(x, start, end) for x in _letters(c)]
            elif c in self._spaced:
                made += [(x, start, end) for x in (32, c, 32)]
            else:
                made.append((c, start, end))
        return made

    def _words(self, chars: list[Char]) -> Iterator[Token]:
        begin = 0
        for i, (c, _, _) in enumerate(chars):
            space = c in self._spaces
            if space or c in self._alone:
                yield from self._pieces(chars[begin:i])
                begin = i + 1
                if not space:
                    yield from self._pieces(chars[i : i + 1])
        yield from self._pieces(chars[begin:])

    def _pieces(self, word: list[Char]) -> list[Token]:
        if not word:
            return []
        unknown = [Token(self._unknown, word[0][1], word[-1][2])]
        if len(word) > self._longest_word:
            return unknown
        text = "".join(chr(c) for c, _, _ in word)
        made: list[Token] = []
        start = 0
        while start < len(text):
            head = self._prefix if start else ""
            end = next((e for e in range(len(text), start, -1) if head + text[start:e] in self._vocabulary), None)
            if end is None:
                return unknown
            made.append(Token(self._vocabulary[head + text[start:end]], word[start][1], word[end - 1][2]))
            start = end
        return made


def _matches(chars: list[Char], at: int, content: str) -> bool:
    return at + len(content) <= len(chars) and all(chars[at + k][0] == ord(c) for k, c in enumerate(content))


def _letters(syllable: int) -> list[int]:
    lead, rest = divmod(syllable - HANGUL.start, 588)
    vowel, tail = divmod(rest, 28)
    return [0x1100 + lead, 0x1161 + vowel, *([0x11A7 + tail] if tail else [])]


def _kept(first: int, second: int, room: int, *, only_second: bool) -> tuple[int, int]:
    """Return how many tokens of each text stay, as Hugging Face's `longest_first` and `only_second` have it."""
    room = max(0, room)
    if first + second <= room:
        return first, second
    if only_second and first < room:
        return first, room - first
    low, high = min(first, second), max(first, second)
    high = low if low > room else max(low, room - low)
    if low + high > room:
        low = room // 2
        high = low + room % 2
    low, high = min(low, room), min(high, room)
    return (high, low) if first > second else (low, high)


def _filled(template: Sequence[Piece], parts: Sequence[list[int]]) -> Encoded:
    ids: list[int] = []
    types: list[int] = []
    for name, type_ in template:
        more = parts["AB".index(name)] if name in {"A", "B"} else [int(name)]
        ids += more
        types += [type_] * len(more)
    return Encoded(ids, types)
