"""Text from outside, as it is shown: nothing in it moves the cursor, changes colors or turns the line around."""

import json
import re

# Control characters but tab and line end (C1 too: \x9b starts a sequence as \x1b[ does), what reverses or hides
# text around it, other line ends, halves of surrogate pairs, and what has no place in Unicode.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return text with what a terminal would obey written as an escape; tabs and line ends stay.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return _OBEYED.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Return text on one line, as names are shown: no label or file name can write a line of ours.

    >>> one_line("a\nPASS")
    'a\\nPASS'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def printable_json(text: str) -> str:
    """Return a JSON document that says the same and holds nothing that a terminal would obey."""
    return _OBEYED.sub(lambda m: json.dumps(m[0])[1:-1], text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()
