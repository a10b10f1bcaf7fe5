"""A WordPiece tokenizer as tables that a few lines of any language read: no Unicode library, no regular expressions.

A phone's own Unicode data differ from system to system. So nothing is left to it: what the tokenizer's normalizer makes
of each of the 1.1 million characters, and where its pre-tokenizer cuts, are asked of the tokenizer itself and written
down. A tokenizer that does not work character by character is refused, with the reason.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TABLES_FILE = "tokenizer.txt"
VOCABULARY_FILE = "vocab.txt"
FORMAT = "plm-export-wordpiece\t1"
LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)
BLOCK = 8192
EMPTY = range(0x40000, 0xE0000)
"""Planes of Unicode in which no character was ever assigned."""
PRIVATE = 0xF0000
"""From here on all characters are for private use."""
STAND_IN = 64
MARK = "|"
"""Stands between characters that are normalized together: no normalizer here changes it, nor joins over it."""
BY_CHARACTER = {"BertNormalizer", "Lowercase", "NFD", "NFKD", "StripAccents"}
Span = tuple[int, int]
Piece = tuple[str, int]
"""`A` or `B` and a type id, or a token id in digits and a type id."""


class NoTables(Exception):
    """The tokenizer cannot be written as tables; the message says why."""


@dataclass(frozen=True)
class Special:
    """A token that is found in the text as it is typed, before any word is cut."""

    content: str
    id: int
    normalized: bool
    """Looked for in the normalized text."""
    left: bool
    """Takes the white space before it along."""
    right: bool


@dataclass(frozen=True)
class Tables:
    """Everything that turns text into ids. Characters are code points; spans hold their last."""

    vocabulary: tuple[str, ...]
    unknown: int
    prefix: str
    longest_word: int
    single: tuple[Piece, ...]
    pair: tuple[Piece, ...]
    specials: tuple[Special, ...]
    spaces: tuple[Span, ...]
    alone: tuple[Span, ...]
    """Characters that are words of their own."""
    dropped: tuple[Span, ...]
    spaced: tuple[Span, ...]
    """Characters that get a space on either side."""
    replaced: dict[int, tuple[int, ...]]
    hangul: bool
    """Syllables fall apart into their letters, by arithmetic."""


def read_tables(backend: "Tokenizer") -> Tables:
    """Ask a tokenizer for its tables.

    Raises:
        NoTables: it is no WordPiece, or some part of it looks at more than one character.

    """
    backend = type(backend).from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    table = json.loads(backend.to_str())
    _refuse(table)
    model = table["model"]
    vocabulary = sorted(model["vocab"].items(), key=lambda pair: pair[1])
    if [i for _, i in vocabulary] != list(range(len(vocabulary))):
        raise NoTables("the ids of its vocabulary have gaps")
    if any("\n" in token or "\r" in token for token, _ in vocabulary):
        raise NoTables("its vocabulary holds line breaks")
    if model["unk_token"] not in model["vocab"]:
        raise NoTables(f"its unknown token {model['unk_token']!r} is not in its vocabulary")
    word = _a_word(backend, vocabulary, {t["content"] for t in table["added_tokens"]} | {model["unk_token"]})
    replaced, dropped, spaced, hangul = _normalized(backend)
    spaces, alone = _cuts(backend)
    return Tables(
        vocabulary=tuple(token for token, _ in vocabulary),
        unknown=model["vocab"][model["unk_token"]],
        prefix=model["continuing_subword_prefix"],
        longest_word=model["max_input_chars_per_word"],
        single=_template(backend, word, None),
        pair=_template(backend, word, word),
        specials=tuple(
            Special(_content(backend, t), t["id"], t["normalized"], t["lstrip"], t["rstrip"])
            for t in table["added_tokens"]
        ),
        spaces=spaces,
        alone=alone,
        dropped=dropped,
        spaced=spaced,
        replaced=replaced,
        hangul=hangul,
    )


def _refuse(table: dict[str, Any]) -> None:
    kind = (table["model"] or {}).get("type")
    if kind != "WordPiece":
        raise NoTables(f"its model is {kind}, not WordPiece")
    normalizer = table["normalizer"] or {"type": "Sequence", "normalizers": []}
    kinds = [n["type"] for n in (normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer])]
    other = [k for k in kinds if k not in BY_CHARACTER]
    if other:
        raise NoTables(f"its normalizer {other[0]} looks at more than one character")
    if any(k in {"NFD", "NFKD"} for k in kinds) and "StripAccents" not in kinds:
        raise NoTables("its normalizer reorders accents")
    splitter = (table["pre_tokenizer"] or {}).get("type")
    if splitter != "BertPreTokenizer":
        raise NoTables(f"its pre-tokenizer is {splitter}, not BertPreTokenizer")
    for token in table["added_tokens"]:
        if token["single_word"]:
            raise NoTables(f"its token {token['content']!r} matches whole words only")


def _content(backend: "Tokenizer", token: dict[str, Any]) -> str:
    content: str = token["content"]
    return backend.normalizer.normalize_str(content) if token["normalized"] and backend.normalizer else content


def _a_word(backend: "Tokenizer", vocabulary: Iterable[tuple[str, int]], special: set[str]) -> str:
    """Return a word that comes out as one token, itself."""
    for token, id_ in vocabulary:
        if token not in special and backend.encode(token, add_special_tokens=False).ids == [id_]:
            return token
    raise NoTables("no word of its vocabulary is one token")


def _template(backend: "Tokenizer", word: str, pair: str | None) -> tuple[Piece, ...]:
    """Return what stands around one text, or two, by giving each a single token."""
    made = backend.encode(word, pair)
    parts: list[Piece] = []
    for id_, type_, sequence, special in zip(
        made.ids, made.type_ids, made.sequence_ids, made.special_tokens_mask, strict=True
    ):
        parts.append((str(id_) if special or sequence is None else "AB"[sequence], type_))
    return tuple(parts)


def _blocks() -> Iterator[list[int]]:
    points = [c for c in range(EMPTY.start) if c not in SURROGATES and c != ord(MARK)]
    points += [c for plane in range(EMPTY.start, LAST + 1, 0x10000) for c in _asked(plane)]
    for start in range(0, len(points), BLOCK):
        yield points[start : start + BLOCK]


def _asked(plane: int) -> range:
    """Return what is asked of a plane: the first characters stand for all of one that nothing was ever assigned in."""
    return range(plane, plane + (STAND_IN if plane in EMPTY or plane >= PRIVATE else 0x10000))


def _told(points: Iterable[int]) -> Iterator[int]:
    """Let the first characters of the empty and private planes speak for the rest."""
    for c in points:
        plane = c & ~0xFFFF
        if plane not in EMPTY and plane < PRIVATE:
            yield c
        elif c == plane:
            yield from range(plane, plane + 0x10000)


def _normalized(backend: "Tokenizer") -> tuple[dict[int, tuple[int, ...]], tuple[Span, ...], tuple[Span, ...], bool]:
    made: dict[int, str] = {}
    if backend.normalizer is not None:
        for block in _blocks():
            found = backend.normalizer.normalize_str(MARK.join(map(chr, block))).split(MARK)
            if len(found) != len(block):
                raise NoTables("its normalizer looks at more than one character")
            made |= {c: text for c, text in zip(block, found, strict=True) if text != chr(c)}
    hangul = all(made.get(c) == _letters(c) for c in HANGUL)
    if hangul:
        for c in HANGUL:
            del made[c]
    dropped = _spans(c for c, text in made.items() if not text)
    spaced = _spans(c for c, text in made.items() if text == f" {chr(c)} ")
    replaced = {c: tuple(map(ord, t)) for c, t in made.items() if t and t != f" {chr(c)} "}
    return replaced, dropped, spaced, hangul


def _letters(syllable: int) -> str:
    """Unicode Standard, section 3.12: leading consonant, vowel, and a trailing consonant if there is one."""
    lead, rest = divmod(syllable - HANGUL.start, 588)
    vowel, tail = divmod(rest, 28)
    return chr(0x1100 + lead) + chr(0x1161 + vowel) + (chr(0x11A7 + tail) if tail else "")


def _cuts(backend: "Tokenizer") -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Return the characters that separate words, and those that are words of their own."""
    spaces, alone = [], [ord(MARK)]
    for block in _blocks():
        pieces = backend.pre_tokenizer.pre_tokenize_str("a" + "a".join(map(chr, block)) + "a")
        covered: set[int] = set()
        single: set[int] = set()
        for _, (start, end) in pieces:
            covered.update(range(start, end))
            if end - start == 1:
                single.add(start)
        spaces += [c for i, c in enumerate(block) if 2 * i + 1 not in covered]
        alone += [c for i, c in enumerate(block) if 2 * i + 1 in single]
    return _spans(spaces), _spans(alone)


def _spans(points: Iterable[int]) -> tuple[Span, ...]:
    made: list[list[int]] = []
    for c in _told(sorted(points)):
        # Surrogates are no characters: a span may reach over them.
        if made and (c == made[-1][1] + 1 or (made[-1][1] + 1 == SURROGATES.start and c == SURROGATES.stop)):
            made[-1][1] = c
        else:
            made.append([c, c])
    return tuple((a, b) for a, b in made)


def write_tables(tables: Tables, folder: Path) -> None:
    """Write `tokenizer.txt` and `vocab.txt`; the same tables give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        FORMAT,
        f"unknown\t{tables.unknown}",
        f"prefix\t{tables.prefix}",
        f"longest_word\t{tables.longest_word}",
        f"hangul\t{int(tables.hangul)}",
        *(f"{name}\t{' '.join(f'{i}:{t}' for i, t in getattr(tables, name))}" for name in ("single", "pair")),
        *(
            f"special\t{s.id}\t{int(s.normalized)}{int(s.left)}{int(s.right)}\t{escaped(s.content)}"
            for s in tables.specials
        ),
        *(f"{name}\t{_hex(getattr(tables, name))}" for name in ("spaces", "alone", "dropped", "spaced")),
        *(f"replace\t{c:x}\t{' '.join(f'{x:x}' for x in to)}" for c, to in sorted(tables.replaced.items())),
    ]
    # Bytes: no system's own line ends.
    (folder / TABLES_FILE).write_bytes(("\n".join(lines) + "\n").encode())
    (folder / VOCABULARY_FILE).write_bytes(("\n".join(tables.vocabulary) + "\n").encode())


def _hex(spans: Sequence[Span]) -> str:
    return " ".join(f"{a:x}-{b:x}" for a, b in spans)


def escaped(text: str) -> str:
    r"""Return text that fills one cell of a table: no tabs, no line ends.

    >>> escaped("a\tb")
    'a\\tb'
    """
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def unescaped(cell: str) -> str:
    """Return what `escaped` was given."""
    letters = iter(cell)
    known = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return "".join(known[next(letters)] if c == "\\" else c for c in letters)
