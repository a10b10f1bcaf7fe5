"""Ids back into text, token by token: what is handed out never changes, also where a token ends in a character."""

import codecs
from typing import Protocol

from converter.device.tokenizer.form import unescaped
from converter.device.tokenizer.reading import Read
from converter.device.tokenizer.splitter import BYTE_LETTERS

REPLACEMENT = "\ufffd"
LETTER_BYTES = {chr(letter): b for b, letter in enumerate(BYTE_LETTERS)}


class Stream(Protocol):
    """Text as its tokens come."""

    def add(self, id_: int) -> str:
        """Return what a token adds to the text and is certain; it may be nothing, or hold earlier tokens' text."""
        ...

    def end(self) -> str:
        """Return what was held back."""
        ...


def spellings_of(read: Read) -> dict[int, str]:
    """Return what each id stands for in text; special tokens stand for nothing."""
    made = dict(enumerate(read.vocabulary))
    return made | {s.id: s.spelling for s in read.specials}


def stream_of(read: Read, spellings: dict[int, str]) -> Stream:
    """Return a new text.

    Raises:
        ValueError: the tables do not say how pieces become text.

    """
    if "decode" not in read.cells:
        raise ValueError("these tables do not say how ids become text")
    left_out = {s.id for s in read.specials if s.special}
    kept = {i: text for i, text in spellings.items() if i not in left_out}
    how, *options = read.cells["decode"]
    return _Bytes(kept) if how == "bytes" else _Pieces(kept, options)


class _Bytes:
    """Letters that stand for bytes; a character may lie in several tokens."""

    def __init__(self, spellings: dict[int, str]) -> None:
        self._spellings = spellings
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id_: int) -> str:
        text = self._spellings.get(id_, "")
        known = [LETTER_BYTES.get(c, -1) for c in text]
        return self._decoder.decode(text.encode() if -1 in known else bytes(known))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Pieces:
    """Pieces with a sign for the space; a run of `<0x41>` is bytes, which are text only if the whole run is."""

    def __init__(self, spellings: dict[int, str], options: list[str]) -> None:
        self._spellings = spellings
        self._sign, flags, self._left, self._right = unescaped(options[0]), *options[1:]
        self._first_loses, self._falls_back = (flag == "1" for flag in flags)
        self._n = self._trimmed = 0
        self._begun = False
        self._run = bytearray()
        self._spaces = ""

    def add(self, id_: int) -> str:
        if id_ not in self._spellings:
            return ""
        text, first = self._spellings[id_], self._n == 0
        self._n += 1
        if self._sign:
            text = text.replace(self._sign, "" if first and self._first_loses else " ")
        byte = _byte(text) if self._falls_back else -1
        if byte >= 0:
            self._run.append(byte)
            return ""
        return self._out(self._flushed() + text)

    def end(self) -> str:
        made = self._out(self._flushed())
        return made + ("" if self._right == "*" else self._spaces)

    def _flushed(self) -> str:
        run, self._run = bytes(self._run), bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _out(self, text: str) -> str:
        """Take spaces off the beginning; hold those at the end back, where they may be the text's last."""
        while not self._begun and text:
            if text[0] == " " and (self._left == "*" or self._trimmed < int(self._left)):
                text, self._trimmed = text[1:], self._trimmed + 1
            else:
                self._begun = True
        if self._right != "*":
            return text
        text = self._spaces + text
        kept = text.rstrip(" ")
        self._spaces = text[len(kept) :]
        return kept


def _byte(piece: str) -> int:
    if len(piece) != 6 or not piece.startswith("<0x") or not piece.endswith(">"):
        return -1
    try:
        return int(piece[3:5], 16)
    except ValueError:
        return -1
