"""JSON from outside: its number of values, its depth and its numbers are bounded."""

import json
from typing import Any, NoReturn

from converter.bounds.files import UnfitFileError

MAX_VALUES = 2_000_000
"""Values of one document: in memory each takes about 100 bytes, however short its text is."""
MAX_DEPTH = 100
"""Lists and tables within each other; real files have about ten."""


def parse_json(content: bytes | str, *, max_values: int = MAX_VALUES, byte_order_mark: bool = False) -> Any:
    """Return the values of a JSON document.

    Raises:
        UnfitFileError: it is no JSON in UTF-8, holds too many values or too deep ones, a number that is none (NaN,
            Infinity, thousands of digits), or text that cannot be written (half a surrogate pair).

    """
    refuse_many_values(content, max_values)
    try:
        text = content.decode("utf-8-sig" if byte_order_mark else "utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnfitFileError:
        raise
    except RecursionError:
        raise UnfitFileError("its lists and tables are nested too deep") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of more than 4300 digits
        raise UnfitFileError(str(error).partition(";")[0]) from None
    refuse_odd_values(value, text=_may_hold_half_pairs(text))
    return value


def refuse_many_values(content: bytes | str, max_values: int = MAX_VALUES) -> None:
    """Count before anything is made of a document: `[[],[],…]` takes 40 times its length in memory."""
    # Every value but the first of its list or table follows a comma.
    marks: tuple[Any, ...] = (b",", b"[", b"{") if isinstance(content, bytes) else (",", "[", "{")
    n = sum(content.count(mark) for mark in marks)
    if n > max_values:
        raise UnfitFileError(f"it holds about {n / 1e6:.1f} million values, and at most {max_values / 1e6:g} are read")


def _may_hold_half_pairs(text: str) -> bool:
    """Tell whether a document spells a surrogate, or holds one: no other text of it can be half a pair."""
    if "\\ud" in text or "\\uD" in text:
        return True
    try:
        _refuse_half_pair(text)
    except UnfitFileError:
        return True
    return False


def refuse_odd_values(value: Any, *, text: bool = True) -> None:
    """Refuse what Python reads and nothing can write again, or what later code would recurse into too deep.

    `text` False: no text in it is looked at. A tokenizer has tens of thousands, and is read a dozen times in a run.
    """
    waiting = [(value, 0)]
    while waiting:
        found, depth = waiting.pop()
        if depth >= MAX_DEPTH and found and isinstance(found, (dict, list)):
            raise UnfitFileError("its lists and tables are nested too deep")
        if isinstance(found, str):
            _refuse_half_pair(found)
        elif isinstance(found, dict):
            waiting += [(k, depth) for k in found if text and not k.isascii()]
            waiting += [(v, depth + 1) for v in found.values() if text or isinstance(v, (dict, list))]
        elif isinstance(found, list):
            waiting += [(v, depth + 1) for v in found if text or isinstance(v, (dict, list))]


def _refuse_half_pair(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnfitFileError("it holds text that is no Unicode (half a surrogate pair)") from None


def _refuse_constant(name: str) -> NoReturn:
    raise UnfitFileError(f"{name} is no number")
