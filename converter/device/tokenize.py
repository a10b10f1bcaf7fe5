"""The tokenizer of the samples, in Python: it reads the shipped tables, and does what the samples do.

It is what the parity proof runs; the samples in Java, C++ and Swift are the same lines in other words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.device.tokenizer.choosing import Token, model_of
from converter.device.tokenizer.decoding import Stream, spellings_of, stream_of
from converter.device.tokenizer.form import Piece, Special
from converter.device.tokenizer.normalizer import normalizer_of
from converter.device.tokenizer.reading import Char, Ranges, Read
from converter.device.tokenizer.splitter import splitter_of

__all__ = ["DeviceTokenizer", "Encoded", "Token"]


@dataclass(frozen=True)
class Encoded:
    """What the model is fed, without padding."""

    ids: list[int]
    types: list[int]


class DeviceTokenizer:
    """Encodes and decodes by tables, whatever the kind of tokenizer.

    Raises:
        ValueError: the tables are of another format, or of a later version.

    """

    def __init__(self, folder: Path) -> None:
        self._read = read = Read(folder)
        self._templates = {name: read.template(name) for name in ("single", "pair")}
        self._spaces = Ranges(read.cells["spaces"][0])
        self._specials = {flag: _by_letter(s for s in read.specials if s.normalized == flag) for flag in (False, True)}
        self._normalizer = [normalizer_of(step, self._spaces) for step in read.steps if step.what == "normalize"]
        self._splits = [splitter_of(step) for step in read.steps if step.what == "split"]
        self._model = model_of(read)
        self._spellings = spellings_of(read)

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
        for chunk in self._cut_out(raw, normalized=False):
            if isinstance(chunk, Token):
                made.append(chunk)
                continue
            normalized = chunk
            for step in self._normalizer:
                normalized = step(normalized)
            for part in self._cut_out(normalized, normalized=True):
                made += [part] if isinstance(part, Token) else self._chosen(part)
        return made

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens left out.

        Raises:
            ValueError: the tables do not say how ids become text.

        """
        stream = self.stream()
        return "".join([*map(stream.add, ids), stream.end()])

    @property
    def decodes(self) -> bool:
        """Whether the tables say how ids become text."""
        return "decode" in self._read.cells

    def stream(self) -> Stream:
        """Return a text that takes ids one by one; raises as `decode` does."""
        return stream_of(self._read, self._spellings)

    def _cut_out(self, chars: list[Char], *, normalized: bool) -> Iterator[Token | list[Char]]:
        """Cut special tokens out: the leftmost first, the longest of those that begin there."""
        wanted = self._specials[normalized]
        begin = i = 0
        while i < len(chars):
            found = next((s for s in wanted.get(chars[i][0], ()) if _matches(chars, i, s.content)), None)
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

    def _chosen(self, chars: list[Char]) -> Iterator[Token]:
        pieces = [chars]
        for step in self._splits:
            pieces = [made for piece in pieces for made in step(piece) if made]
        for piece in pieces:
            yield from self._model(piece)


def _by_letter(specials: Iterable[Special]) -> dict[int, list[Special]]:
    """Return special tokens by their first character, the longest first."""
    made: dict[int, list[Special]] = {}
    for s in sorted((s for s in specials if s.content), key=lambda s: -len(s.content)):
        made.setdefault(ord(s.content[0]), []).append(s)
    return made


def _matches(chars: list[Char], at: int, content: str) -> bool:
    return at + len(content) <= len(chars) and all(chars[at + k][0] == ord(c) for k, c in enumerate(content))


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
