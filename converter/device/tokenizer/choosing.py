"""How each kind of tokenizer makes tokens of a piece of text: WordPiece, byte-pair encoding, Unigram."""

import heapq
from dataclasses import dataclass
from typing import Protocol

from converter.device.tokenizer.form import unescaped
from converter.device.tokenizer.reading import Char, Read, spelled

UNKNOWN_PENALTY = 10.0


@dataclass(frozen=True)
class Token:
    """A token id, and where in the text it came from."""

    id: int
    start: int
    end: int


class Model(Protocol):
    """Makes tokens of a piece of text, which is never empty."""

    def __call__(self, chars: list[Char]) -> list[Token]: ...


def model_of(read: Read) -> Model:
    """Return the model that the tables are of.

    Raises:
        ValueError: a later version's kind.

    """
    kind = read.cells["kind"][0]
    if kind == "wordpiece":
        return WordPiece(read)
    if kind == "bpe":
        return Bpe(read)
    if kind == "unigram":
        return Unigram(read)
    raise ValueError(f"the tables are of a kind of a later version: {kind}")


class WordPiece:
    """Schuster and Nakajima (2012); the longest piece first, as in Devlin et al., arXiv 1810.04805."""

    def __init__(self, read: Read) -> None:
        self._ids = {piece: i for i, piece in enumerate(read.vocabulary)}
        self._unknown = int(read.cells["unknown"][0])
        self._prefix = unescaped(read.cells["prefix"][0])
        self._longest_word = int(read.cells["longest_word"][0])

    def __call__(self, chars: list[Char]) -> list[Token]:
        unknown = [Token(self._unknown, chars[0][1], chars[-1][2])]
        if len(chars) > self._longest_word:
            return unknown
        text = spelled(chars)
        made: list[Token] = []
        start = 0
        while start < len(text):
            head = self._prefix if start else ""
            end = next((e for e in range(len(text), start, -1) if head + text[start:e] in self._ids), None)
            if end is None:
                return unknown
            made.append(Token(self._ids[head + text[start:end]], chars[start][1], chars[end - 1][2]))
            start = end
        return made


class _Bytes:
    """The pieces `<0x00>` to `<0xFF>`, for characters that are no pieces themselves."""

    def __init__(self, ids: dict[str, int], *, used: bool) -> None:
        self._ids = [ids.get(f"<0x{b:02X}>", -1) if used else -1 for b in range(256)]

    def of(self, text: str) -> list[int] | None:
        made = [self._ids[b] for b in text.encode()]
        return None if -1 in made else made


class Bpe:
    """Sennrich et al., arXiv 1508.07909: of all neighbors the pair that training merged first, again and again."""

    def __init__(self, read: Read) -> None:
        fuse, fallback, whole = (flag == "1" for flag in read.cells["flags"][0])
        self._ids = {piece: i for i, piece in enumerate(read.vocabulary)}
        self._bytes = _Bytes(self._ids, used=fallback)
        self._unknown, self._fuses, self._whole = int(read.cells["unknown"][0]), fuse, whole
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        merged = -1
        for rank, cell in enumerate(read.cells["merges"][0].split()):
            left, right, *other = map(int, cell.split(","))
            merged = other[0] if other else merged + 1
            self._merges[left, right] = rank, merged

    def __call__(self, chars: list[Char]) -> list[Token]:
        if self._whole:
            known = self._ids.get(spelled(chars))
            if known is not None:
                return [Token(known, chars[0][1], chars[-1][2])]
        return self._merged(self._symbols(chars))

    def _symbols(self, chars: list[Char]) -> list[Token]:
        made: list[Token] = []
        unknown: Token | None = None
        for c, start, end in chars:
            known = self._ids.get(chr(c))
            if known is not None:
                made += [unknown] if unknown else []
                unknown = None
                made.append(Token(known, start, end))
            elif (spelled_out := self._bytes.of(chr(c))) is not None:
                made += [Token(i, start, end) for i in spelled_out]
            elif self._unknown >= 0:
                if unknown and not self._fuses:
                    made.append(unknown)
                    unknown = None
                unknown = Token(self._unknown, unknown.start if unknown else start, end)
        return made + ([unknown] if unknown else [])

    def _merged(self, symbols: list[Token]) -> list[Token]:
        """Merge until no pair is left; `after` and `before` chain what is left, `queue` has the pairs by rank."""
        tokens: list[Token | None] = list(symbols)
        after, before = list(range(1, len(tokens) + 1)), list(range(-1, len(tokens) - 1))
        queue: list[tuple[int, int, int]] = []

        def note(at: int) -> None:
            one, other = tokens[at], tokens[after[at]] if after[at] < len(tokens) else None
            if one and other and (found := self._merges.get((one.id, other.id))):
                heapq.heappush(queue, (found[0], at, found[1]))

        for at in range(len(tokens)):
            note(at)
        while queue:
            _, at, merged = heapq.heappop(queue)
            one, next_ = tokens[at], after[at]
            other = tokens[next_] if next_ < len(tokens) else None
            # A pair that was noted, and has changed since.
            if not one or not other or self._merges.get((one.id, other.id), (0, -1))[1] != merged:
                continue
            tokens[at], tokens[next_] = Token(merged, one.start, other.end), None
            after[at] = after[next_]
            if after[at] < len(tokens):
                before[after[at]] = at
            if before[at] >= 0:
                note(before[at])
            note(at)
        return [token for token in tokens if token]


class Unigram:
    """Kudo, arXiv 1804.10959: of all ways to cut, the one whose pieces have the highest sum of scores (Viterbi)."""

    def __init__(self, read: Read) -> None:
        _, fallback, _ = (flag == "1" for flag in read.cells["flags"][0])
        self._ids = {piece: i for i, piece in enumerate(read.vocabulary)}
        self._bytes = _Bytes(self._ids, used=fallback)
        self._unknown = int(read.cells["unknown"][0])
        self._scores = [float(x) for x in read.cells["scores"][0].split()]
        if len(self._scores) != len(read.vocabulary):
            raise ValueError(f"{len(read.vocabulary)} pieces have {len(self._scores)} scores")
        self._longest = max(map(len, self._ids))
        self._unknown_score = min(self._scores) - UNKNOWN_PENALTY

    def __call__(self, chars: list[Char]) -> list[Token]:
        text = spelled(chars)
        made: list[Token] = []
        for start, end in self._best(text):
            first, last = chars[start][1], chars[end - 1][2]
            known = self._ids.get(text[start:end])
            if known is None and (spelled_out := self._bytes.of(text[start:end])) is not None:
                made += [Token(i, first, last) for i in spelled_out]
            else:
                made.append(Token(self._unknown if known is None else known, first, last))
        return made

    def _best(self, text: str) -> list[tuple[int, int]]:
        """Return the pieces of the best way; unknown characters side by side are one."""
        best: list[tuple[float, int, int] | None] = [None] * (len(text) + 1)
        best[0] = (0.0, 0, -1)
        for start in range(len(text)):
            here = best[start]
            if here is None:
                continue
            single = False
            for end in range(start + 1, min(len(text), start + self._longest) + 1):
                known = self._ids.get(text[start:end])
                if known is None:
                    continue
                single |= end == start + 1
                score, there = here[0] + self._scores[known], best[end]
                if there is None or score > there[0]:
                    best[end] = (score, start, known)
            if not single:
                score, there = here[0] + self._unknown_score, best[start + 1]
                if there is None or score > there[0]:
                    best[start + 1] = (score, start, self._unknown)
        return self._traced(best)

    def _traced(self, best: list[tuple[float, int, int] | None]) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        end, unknown_before = len(best) - 1, False
        while end > 0:
            node = best[end]
            assert node is not None  # every character is a piece or unknown
            _, start, id_ = node
            if id_ == self._unknown and unknown_before:
                made[-1] = (start, made[-1][1])
            else:
                made.append((start, end))
            unknown_before = id_ == self._unknown
            end = start
        return made[::-1]
