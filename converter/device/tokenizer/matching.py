"""Patterns of repeated character sets, matched: the first alternative that fits, each item taking as much as it can."""

from collections.abc import Iterator

from converter.device.tokenizer.reading import Char, Ranges, Step

Item = tuple[str, int, int, int]
"""What it is, which set or part, and how often at least and at most."""
LINE_END = 10


class Matcher:
    """One pattern."""

    def __init__(self, step: Step) -> None:
        self._sets = [Ranges(row[0]) for row in step.rows_of("set")]
        self._parts = [_items(row[0]) for row in step.rows_of("part")]
        self._alternatives = [_items(row[0]) for row in step.rows_of("alternative")]

    def all(self, chars: list[Char]) -> Iterator[tuple[int, int]]:
        """Yield where matches begin and end, from left to right, none over another."""
        at = 0
        while at < len(chars):
            end = self._end(chars, at)
            if end > at:
                yield at, end
            at = max(at + 1, end)

    def _end(self, chars: list[Char], at: int) -> int:
        for items in self._alternatives:
            end = self._match(items, 0, chars, at)
            if end > at:
                return end
        return -1

    def _match(self, items: list[Item], k: int, chars: list[Char], at: int) -> int:
        """Return where items from `k` on end if they begin at `at`; -1: they do not match."""
        if k == len(items):
            return at
        what, which, least, most = items[k]
        if what == ":":
            held, end = self._sets[which], at
            while end < len(chars) and end - at < most and chars[end][0] in held:
                end += 1
            for stop in range(end, at + least - 1, -1):
                found = self._match(items, k + 1, chars, stop)
                if found >= 0:
                    return found
            return -1
        return self._match(items, k + 1, chars, at) if self._holds(what, which, chars, at) else -1

    def _holds(self, what: str, which: int, chars: list[Char], at: int) -> bool:
        match what:
            case "~":
                return self._match(self._parts[which], 0, chars, at) < 0
            case "<":
                return at == 0 or chars[at - 1][0] not in self._sets[which]
            case "^":
                return at == 0 or chars[at - 1][0] == LINE_END
            case _:
                return at == len(chars) or chars[at][0] == LINE_END


def _items(cell: str) -> list[Item]:
    made: list[Item] = []
    for part in cell.split():
        if ":" in part:
            which, least, most = part.split(":")
            made.append((":", int(which), int(least), 1 << 30 if most == "*" else int(most)))
        else:
            made.append((part[0], int(part[1:] or 0), 0, 0))
    return made
