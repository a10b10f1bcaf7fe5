"""The steps of a normalizer, run on characters that remember where in the text they came from."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from converter.device.tokenizer.characters import HANGUL, letters
from converter.device.tokenizer.charsmap import CLUSTER_BYTES
from converter.device.tokenizer.form import unescaped
from converter.device.tokenizer.matching import Matcher
from converter.device.tokenizer.reading import Char, Ranges, Step, spelled

Run: TypeAlias = Callable[[list[Char]], list[Char]]
LEADS, VOWELS, TAILS = range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A8, 0x11C3)
LEADING = (range(0x1100, 0x1160), range(0xA960, 0xA97D))
MIDDLE = (range(0x1160, 0x11A8), range(0xD7B0, 0xD7C7))
TRAILING = (range(0x11A8, 0x1200), range(0xD7CB, 0xD7FC))


def normalizer_of(step: Step, spaces: Ranges) -> Run:
    """Return what a step does.

    Raises:
        ValueError: a later version's step.

    """
    match step.name:
        case "characters":
            return _Characters(step)
        case "clusters":
            return _Clusters(step)
        case "form":
            return _Form(step)
        case "replace":
            return _Replace(step)
        case "prepend":
            return _Prepend(unescaped(step.options[0]))
        case "strip":
            return _Strip(step.options[0], spaces)
        case _:
            raise ValueError(f"the tables have a step of a later version: {step.name}")


class _Characters:
    def __init__(self, step: Step) -> None:
        self._hangul = step.options[0] == "1"
        self._dropped, self._spaced = step.ranges("drop"), step.ranges("space")
        self._maps = {ord(c): tuple(map(ord, to)) for c, to in step.maps().items()}

    def __call__(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        for c, start, end in chars:
            if c in self._maps:
                made += [(x, start, end) for x in self._maps[c]]
            elif c in self._dropped:
                continue
            elif self._hangul and c in HANGUL:
                made += [(x, start, end) for x in letters(c)]
            elif c in self._spaced:
                made += [(x, start, end) for x in (32, c, 32)]
            else:
                made.append((c, start, end))
        return made


class _Clusters:
    """SentencePiece's table, as `tokenizers` looks it up: a short grapheme cluster whole, else by character."""

    def __init__(self, step: Step) -> None:
        self._maps = step.maps()
        self._extend, self._prepend, self._control = (step.ranges(n) for n in ("extend", "prepend", "control"))

    def __call__(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        for cluster in self._clusters(chars):
            whole = self._whole(spelled(cluster)) if len(cluster) > 1 else None
            if whole is not None:
                made += [(ord(x), cluster[0][1], cluster[-1][2]) for x in whole]
                continue
            for c, start, end in cluster:
                made += [(ord(x), start, end) for x in self._maps.get(chr(c), chr(c))]
        return made

    def _whole(self, text: str) -> str | None:
        if len(text.encode()) >= CLUSTER_BYTES:
            return None
        return next((self._maps[text[:n]] for n in range(1, len(text) + 1) if text[:n] in self._maps), None)

    def _clusters(self, chars: list[Char]) -> Iterator[list[Char]]:
        begin = 0
        for i in range(1, len(chars) + 1):
            if i == len(chars) or self._cuts(chars[i - 1][0], chars[i][0]):
                yield chars[begin:i]
                begin = i

    def _cuts(self, one: int, other: int) -> bool:
        """Unicode Standard Annex 29: whether a grapheme cluster ends between two characters.

        Flags, emoji sequences and Indic conjuncts are left out: their clusters have six bytes and more.
        """
        if one in self._control or other in self._control:
            return (one, other) != (13, 10)
        return not (other in self._extend or one in self._prepend or _joined_hangul(one, other))


def _joined_hangul(one: int, other: int) -> bool:
    if any(one in held for held in LEADING):
        return other in HANGUL or any(other in held for held in (*LEADING, *MIDDLE))
    open_ = one in HANGUL and (one - HANGUL.start) % 28 == 0
    if open_ or any(one in held for held in MIDDLE):
        return any(other in held for held in (*MIDDLE, *TRAILING))
    return (one in HANGUL or any(one in held for held in TRAILING)) and any(other in held for held in TRAILING)


class _Form:
    """Unicode Standard, section 3.11: decompose, order the marks, and compose again where the form asks for it."""

    def __init__(self, step: Step) -> None:
        self._composes = step.options[0] == "1"
        self._maps = {ord(c): tuple(map(ord, to)) for c, to in step.maps().items()}
        self._order = [(int(row[0]), Ranges(row[1])) for row in step.rows_of("order")]
        self._pairs = {
            (int(a, 16), int(b, 16)): int(c, 16)
            for row in step.rows_of("compose")
            for a, b, c in (triple.split(",") for triple in row[0].split())
        }
        self._ranks: dict[int, int] = {}

    def __call__(self, chars: list[Char]) -> list[Char]:
        if all(c < 128 for c, _, _ in chars):
            return chars
        made: list[Char] = []
        for c, start, end in chars:
            parts = letters(c) if c in HANGUL else self._maps.get(c, (c,))
            made += [(x, start, end) for x in parts]
        made = self._ordered(made)
        return self._composed(made) if self._composes else made

    def _rank(self, c: int) -> int:
        if c not in self._ranks:
            self._ranks[c] = next((rank for rank, held in self._order if c in held), 0)
        return self._ranks[c]

    def _ordered(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        marks: list[Char] = []
        for char in chars:
            if self._rank(char[0]):
                marks.append(char)
                continue
            made += [*sorted(marks, key=lambda m: self._rank(m[0])), char]
            marks = []
        return made + sorted(marks, key=lambda m: self._rank(m[0]))

    def _composed(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        starter, last = -1, 0
        for c, start, end in chars:
            rank = self._rank(c)
            blocked = starter < 0 or (len(made) > starter + 1 and last >= rank)
            joined = None if blocked else self._joined(made[starter][0], c)
            if joined is not None:
                made[starter] = (joined, made[starter][1], max(made[starter][2], end))
                continue
            starter = starter if rank else len(made)
            last = rank
            made.append((c, start, end))
        return made

    def _joined(self, one: int, other: int) -> int | None:
        if one in LEADS and other in VOWELS:
            return HANGUL.start + ((one - LEADS.start) * len(VOWELS) + other - VOWELS.start) * 28
        if one in HANGUL and (one - HANGUL.start) % 28 == 0 and other in TAILS:
            return one + other - TAILS.start + 1
        return self._pairs.get((one, other))


class _Replace:
    def __init__(self, step: Step) -> None:
        self._matcher, self._content = Matcher(step), [ord(c) for c in unescaped(step.options[0])]

    def __call__(self, chars: list[Char]) -> list[Char]:
        made: list[Char] = []
        done = 0
        for begin, end in self._matcher.all(chars):
            made += chars[done:begin] + [(c, chars[begin][1], chars[end - 1][2]) for c in self._content]
            done = end
        return made + chars[done:]


class _Prepend:
    def __init__(self, text: str) -> None:
        self._text = [ord(c) for c in text]

    def __call__(self, chars: list[Char]) -> list[Char]:
        return [(c, chars[0][1], chars[0][2]) for c in self._text] + chars if chars else []


class _Strip:
    def __init__(self, ends: str, spaces: Ranges) -> None:
        self._left, self._right, self._spaces = ends[0] == "1", ends[1] == "1", spaces

    def __call__(self, chars: list[Char]) -> list[Char]:
        begin, end = 0, len(chars)
        while self._left and begin < end and chars[begin][0] in self._spaces:
            begin += 1
        while self._right and end > begin and chars[end - 1][0] in self._spaces:
            end -= 1
        return chars[begin:end]
