"""Regular expressions of pre-tokenizers as tables: alternatives of repeated character sets, and what must not follow.

That is all that the known ones use (GPT-2, Llama 3, Qwen, GPT-4o), so that a device needs no library of regular
expressions, whose classes differ with its Unicode data. The sets are asked of `tokenizers` itself.
"""

import re
from dataclasses import dataclass, field
from itertools import product

from converter.device.tokenizer.characters import matching
from converter.device.tokenizer.form import NoTables, Row, Span, spans_text

MOST = 4000
"""Alternatives after writing groups out."""
Items = tuple[str, ...]
"""`3:1:*`: one and more of set 3; `~2`: part 2 does not follow; `<4`: none of set 4 before; `^`, `$`: line ends."""


@dataclass
class Pattern:
    """The tables of one regular expression."""

    source: str
    sets: dict[tuple[Span, ...], int] = field(default_factory=dict)
    parts: list[Items] = field(default_factory=list)
    alternatives: list[Items] = field(default_factory=list)

    def rows(self) -> tuple[Row, ...]:
        """Return the rows that follow the step of which this is the pattern."""
        return (
            *(("set", spans_text(held)) for held in self.sets),
            *(("part", " ".join(items)) for items in self.parts),
            *(("alternative", " ".join(items)) for items in self.alternatives),
        )

    def set_of(self, held: tuple[Span, ...]) -> int:
        return self.sets.setdefault(held, len(self.sets))


def pattern_of(source: str) -> Pattern:
    """Read a regular expression.

    Raises:
        NoTables: it uses what the tables cannot express.

    """
    made = Pattern(source)
    reader = _Reader(source, made)
    made.alternatives = reader.alternatives()
    if reader.at < len(source):
        raise reader.refused(")")
    if any(not any(_takes(item) for item in items) for items in made.alternatives):
        raise NoTables(f"its pattern {_short(source)} may match nothing at all")
    return made


def literal(text: str) -> Pattern:
    """Return the pattern of this very text."""
    made = Pattern(text)
    made.alternatives = [tuple(f"{made.set_of(((ord(c), ord(c)),))}:1:1" for c in text)]
    return made


def one_of(held: tuple[Span, ...], most: str = "1") -> Pattern:
    """Return the pattern of one character of a set, or `*` of as many as there are."""
    made = Pattern("")
    made.alternatives = [(f"{made.set_of(held)}:1:{most}",)]
    return made


def _takes(item: str) -> bool:
    return ":" in item and item.split(":")[1] != "0"


def _short(source: str) -> str:
    return repr(source if len(source) < 60 else f"{source[:57]}…")


_QUANTIFIER = re.compile(r"\?|\*|\+|\{(\d+)\}|\{(\d*),(\d*)\}")
_ESCAPE = re.compile(r"\\(?:[pP]\{\^?\w+\}|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|[sSdDwWnrtfv]|[^\w\s])")


class _Reader:
    def __init__(self, source: str, made: Pattern) -> None:
        self.source, self.made, self.at, self.ignores_case = source, made, 0, False

    def refused(self, what: str) -> NoTables:
        return NoTables(f"its pattern {_short(self.source)} has {what!r}, which the tables cannot express")

    def alternatives(self) -> list[Items]:
        """Read up to the end of a group: its alternatives, groups in them written out."""
        made = self._sequence()
        while self._take("|"):
            made += self._sequence()
        if len(made) > MOST:
            raise NoTables(f"its pattern {_short(self.source)} has too many alternatives")
        return made

    def _sequence(self) -> list[Items]:
        row: list[list[Items]] = []
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            row.append(self._piece())
        return [tuple(item for items in chosen for item in items) for chosen in product(*row)]

    def _take(self, text: str) -> bool:
        if not self.source.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def _piece(self) -> list[Items]:
        if self._take("(?!"):
            self.made.parts += (parts := self._group())
            first = len(self.made.parts) - len(parts)
            return [tuple(f"~{first + i}" for i in range(len(parts)))]
        if self._take("(?<!"):
            return [self._before()]
        if self.source[self.at] in "^$":
            self.at += 1
            return [(self.source[self.at - 1],)]
        for start in ("(?:", "(?i:", "("):
            if self._take(start):
                if start == "(" and self.source.startswith("?", self.at):
                    raise self.refused(self.source[self.at - 1 : self.at + 3])
                outside, self.ignores_case = self.ignores_case, self.ignores_case or "i" in start
                group = self._group()
                self.ignores_case = outside
                return self._repeated(group)
        return [(f"{self._set()}:{':'.join(self._quantifier())}",)]

    def _group(self) -> list[Items]:
        made = self.alternatives()
        if not self._take(")"):
            raise self.refused("(")
        return made

    def _before(self) -> Items:
        held = self._set()
        if not self._take(")"):
            raise self.refused("(?<!")
        return (f"<{held}",)

    def _repeated(self, group: list[Items]) -> list[Items]:
        least, most = self._quantifier()
        if (least, most) == ("1", "1"):
            return group
        if (least, most) == ("0", "1"):
            return [*group, ()]
        if len(group) == len(group[0]) == 1 and group[0][0].endswith(":1:1"):
            return [(f"{group[0][0][:-4]}:{least}:{most}",)]
        raise self.refused("a repeated group")

    def _quantifier(self) -> tuple[str, str]:
        found = _QUANTIFIER.match(self.source, self.at)
        if found is None:
            return "1", "1"
        self.at = found.end()
        if self.source.startswith(("+", "?"), self.at):
            raise self.refused(found.group() + self.source[self.at])
        exact, low, high = found.groups()
        if exact is not None:
            return exact, exact
        if low is not None:
            return low or "0", high or "*"
        return {"?": ("0", "1"), "*": ("0", "*"), "+": ("1", "*")}[found.group()]

    def _set(self) -> int:
        """Read one atom that stands for a character."""
        if self.source.startswith("[", self.at):
            source = self._class()
        elif self.source.startswith("\\", self.at):
            found = _ESCAPE.match(self.source, self.at)
            if found is None:
                raise self.refused(self.source[self.at : self.at + 2])
            source, self.at = found.group(), found.end()
        elif self.source[self.at] in "*+?{":
            raise self.refused(self.source[self.at])
        else:
            source, self.at = self.source[self.at], self.at + 1
        if len(source) == 1 and source != "." and not self.ignores_case:
            return self.made.set_of(((ord(source), ord(source)),))
        return self.made.set_of(matching(f"(?i:{source})" if self.ignores_case else source))

    def _class(self) -> str:
        begin, depth = self.at, 0
        while self.at < len(self.source):
            c = self.source[self.at]
            self.at += 2 if c == "\\" else 1
            depth += (c == "[") - (c == "]")
            if not depth:
                return self.source[begin : self.at]
        raise self.refused("[")
