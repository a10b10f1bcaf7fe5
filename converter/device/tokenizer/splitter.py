"""The steps of a pre-tokenizer, run: each takes pieces of text and gives shorter ones."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from converter.device.tokenizer.form import unescaped
from converter.device.tokenizer.matching import Matcher
from converter.device.tokenizer.reading import Char, Step

Run: TypeAlias = Callable[[list[Char]], Iterable[list[Char]]]
SPACE = 32


def byte_letters() -> list[int]:
    """Return the letter that stands for each byte (Radford et al., 2019): itself where it can be seen, else one more.

    >>> chr(byte_letters()[32])
    'Ġ'
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [b if b in seen else next(others) for b in range(256)]


BYTE_LETTERS = byte_letters()


def splitter_of(step: Step) -> Run:
    """Return what a step does.

    Raises:
        ValueError: a later version's step.

    """
    match step.name:
        case "pattern":
            return _Cut(step)
        case "metaspace":
            return _Metaspace(*step.options)
        case "prefix":
            return _with_space
        case "bytes":
            return _as_bytes
        case _:
            raise ValueError(f"the tables have a step of a later version: {step.name}")


def _with_space(chars: list[Char]) -> list[list[Char]]:
    first = chars[0]
    return [chars if first[0] == SPACE else [(SPACE, first[1], first[2]), *chars]]


def _as_bytes(chars: list[Char]) -> list[list[Char]]:
    return [[(BYTE_LETTERS[b], start, end) for c, start, end in chars for b in chr(c).encode()]]


class _Cut:
    """Cuts at matches of a pattern, which are dropped, pieces of their own, or go with their neighbors."""

    def __init__(self, step: Step) -> None:
        self._matcher, self._behavior, self._inverted = Matcher(step), step.options[0], step.options[1] == "1"

    def __call__(self, chars: list[Char]) -> list[list[Char]]:
        spans: list[tuple[int, int]] = []
        before = False
        for begin, end, matched in self._parts(chars):
            joined = {
                "previous": matched and not before,
                "next": before and not matched,
                "contiguous": matched == before,
            }.get(self._behavior, False)
            if joined and spans:
                spans[-1] = (spans[-1][0], end)
            elif not (matched and self._behavior == "removed"):
                spans.append((begin, end))
            before = matched
        return [chars[begin:end] for begin, end in spans]

    def _parts(self, chars: list[Char]) -> Iterator[tuple[int, int, bool]]:
        done = 0
        for begin, end in self._matcher.all(chars):
            if begin > done:
                yield done, begin, self._inverted
            yield begin, end, not self._inverted
            done = end
        if done < len(chars):
            yield done, len(chars), self._inverted


class _Metaspace:
    """Spaces become a sign, which the text begins with too; each piece begins with one."""

    def __init__(self, sign: str, scheme: str, splits: str) -> None:
        self._sign, self._scheme, self._splits = ord(unescaped(sign)), scheme, splits == "1"

    def __call__(self, chars: list[Char]) -> Iterator[list[Char]]:
        made = [(self._sign if c == SPACE else c, start, end) for c, start, end in chars]
        first = self._scheme == "always" or (self._scheme == "first" and chars[0][1] == 0)
        if first and made[0][0] != self._sign:
            made.insert(0, (self._sign, made[0][1], made[0][2]))
        begin = 0
        for i in range(1, len(made)):
            # A sign takes what follows along, another sign alone.
            if self._splits and made[i][0] == self._sign:
                yield made[begin:i]
                begin = i
        yield made[begin:]
