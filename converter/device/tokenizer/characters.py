"""What a tokenizer's library makes of every character, asked of it: a phone's Unicode data may be of another year."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from converter.device.tokenizer.form import NoTables, Span

LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)
BLOCK = 8192
EMPTY = range(0x40000, 0xE0000)
"""Planes of Unicode in which no character was ever assigned."""
PRIVATE = 0xF0000
"""From here on all characters are for private use."""
STAND_IN = 64
LETTER = "a"


def points() -> Iterator[int]:
    """Yield the characters that are asked of; the first of an empty or private plane stand for all of it."""
    yield from (c for c in range(EMPTY.start) if c not in SURROGATES)
    for plane in range(EMPTY.start, LAST + 1, 0x10000):
        few = plane in EMPTY or plane >= PRIVATE
        yield from range(plane, plane + (STAND_IN if few else 0x10000))


def blocks() -> Iterator[list[int]]:
    """Yield the characters that are asked of, some thousands at a time."""
    all_points = list(points())
    for start in range(0, len(all_points), BLOCK):
        yield all_points[start : start + BLOCK]


def _told(asked: Iterable[int]) -> Iterator[int]:
    """Let the first characters of the empty and private planes speak for the rest."""
    for c in asked:
        plane = c & ~0xFFFF
        if plane not in EMPTY and plane < PRIVATE:
            yield c
        elif c == plane:
            yield from range(plane, plane + 0x10000)


def spans(asked: Iterable[int]) -> tuple[Span, ...]:
    """Return characters as runs, for the planes that were not asked of too."""
    made: list[list[int]] = []
    for c in _told(sorted(asked)):
        # Surrogates are no characters: a span may reach over them.
        if made and (c == made[-1][1] + 1 or (made[-1][1] + 1 == SURROGATES.start and c == SURROGATES.stop)):
            made[-1][1] = c
        else:
            made.append([c, c])
    return tuple((a, b) for a, b in made)


def letters(syllable: int) -> tuple[int, ...]:
    """Unicode Standard, section 3.12: leading consonant, vowel, and a trailing consonant if there is one."""
    lead, rest = divmod(syllable - HANGUL.start, 588)
    vowel, tail = divmod(rest, 28)
    return 0x1100 + lead, 0x1161 + vowel, *((0x11A7 + tail,) if tail else ())


def replaced_by(normalize: Callable[[str], str]) -> dict[int, tuple[int, ...]]:
    """Return what a normalizer makes of each character that it changes."""
    made = {}
    for c in points():
        text = normalize(chr(c))
        if text != chr(c):
            made[c] = tuple(map(ord, text))
    return made


@cache
def matching(source: str) -> tuple[Span, ...]:
    """Return the characters that a regular expression for one character matches, as `tokenizers` reads it.

    Raises:
        NoTables: it is no regular expression there.

    """
    from tokenizers import Regex, pre_tokenizers

    try:
        removed: Any = pre_tokenizers.Split(Regex(source), "removed")
    except Exception as error:  # noqa: BLE001 - tokenizers raises no class of its own
        raise NoTables(f"its pattern {source!r} cannot be read ({error})") from None
    return _without(removed)


@cache
def white_space() -> tuple[Span, ...]:
    """Return what the library takes for white space around added tokens."""
    from tokenizers import pre_tokenizers

    return _without(pre_tokenizers.WhitespaceSplit())


@cache
def punctuation() -> tuple[Span, ...]:
    """Return what the library takes for punctuation."""
    from tokenizers import pre_tokenizers

    return _without(pre_tokenizers.Punctuation("removed"))


@cache
def digits() -> tuple[Span, ...]:
    """Return what the library takes for digits."""
    from tokenizers import pre_tokenizers

    return alone(pre_tokenizers.Digits(individual_digits=True))


@cache
def of_words() -> tuple[Span, ...]:
    """Return what `Whitespace` takes for a part of a word, which is not what `matching` finds for words."""
    from tokenizers import pre_tokenizers

    splitter, made = pre_tokenizers.Whitespace(), []
    for block in blocks():
        pieces = splitter.pre_tokenize_str(" ".join(LETTER + chr(c) for c in block))
        made += [block[start // 3] for _, (start, end) in pieces if start % 3 == 0 and end - start == 2]
    return spans(made)


def _without(splitter: Any) -> tuple[Span, ...]:
    """Return the characters that a splitter leaves out."""
    left_out: list[int] = []
    for block in blocks():
        kept: set[int] = set()
        for _, (start, end) in splitter.pre_tokenize_str("".join(map(chr, block))):
            kept.update(range(start, end))
        left_out += [c for i, c in enumerate(block) if i not in kept]
    return spans(left_out)


def alone(splitter: Any) -> tuple[Span, ...]:
    """Return the characters that a splitter makes pieces of their own, between letters."""
    made: list[int] = []
    for block in blocks():
        text = LETTER + LETTER.join(map(chr, block)) + LETTER
        single = {start for _, (start, end) in splitter.pre_tokenize_str(text) if end - start == 1}
        made += [c for i, c in enumerate(block) if 2 * i + 1 in single]
    return spans(c for c in made if chr(c) != LETTER)
