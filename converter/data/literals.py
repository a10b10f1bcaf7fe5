"""What a table's cell holds where it holds more than text: JSON, a Python literal, or what numpy and pandas print."""

import ast
import io
import re
import tokenize
from itertools import pairwise
from typing import Any

from converter.bounds.documents import parse_json
from converter.bounds.files import UnfitFileError

_BARE_NUMBERS = re.compile(r"^\[\s*(-?\d+(\.\d*)?(\s+|(?=\])|(?=-)))*\]$")
"""`[3 0 7]`: an array as numpy prints it, without commas."""
LONGEST = 4_000_000
"""Characters of a list or table in a cell: Python's parser takes a hundred times as many bytes."""
ARRAYS = frozenset({"array", "np.array", "numpy.array"})


def parse_literal(text: str) -> Any:
    """Read a cell; nothing in it is run.

    Raises:
        ValueError: it is none of these, or may be read in two ways.

    >>> parse_literal("{'text': array(['1903'], dtype=object), 'answer_start': array([19])}")
    {'text': ['1903'], 'answer_start': [19]}
    >>> parse_literal("['EU' 'rejects']")
    ['EU', 'rejects']

    """
    text = text.strip()
    if len(text) > LONGEST:
        raise ValueError(f"the cell has {len(text)} characters: too long for a list or a table")
    try:
        return parse_json(text)
    except UnfitFileError:
        pass
    if _BARE_NUMBERS.match(text):
        return [float(n) if "." in n else int(n) for n in text[1:-1].split()]
    try:
        words = _adjacent_strings(text)
        return _value(ast.parse(text, mode="eval").body) if words is None else words
    except (SyntaxError, MemoryError, RecursionError, tokenize.TokenError, TypeError):
        raise ValueError(f"neither JSON nor a Python literal: {text!r:.60}") from None


def _adjacent_strings(text: str) -> list[str] | None:
    """Return the strings of an array that numpy printed without commas; None where no two stand side by side.

    Python would read them as one string.
    """
    passed_over = (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in passed_over]
    if not any(a.type == b.type == tokenize.STRING for a, b in pairwise(tokens)):
        return None
    inside = tokens[1:-1]
    if tokens[0].string != "[" or tokens[-1].string != "]" or any(t.type != tokenize.STRING for t in inside):
        raise ValueError(f"strings side by side may be one or several: {text!r:.60}")
    return [str(ast.literal_eval(t.string)) for t in inside]


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(k): _value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=function, args=[ast.List() as values], keywords=named) if ast.unparse(
            function
        ) in ARRAYS and all(k.arg == "dtype" for k in named):
            return _value(values)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np")), args=[ast.Constant() as number], keywords=[]):
            return _value(number)  # np.int64(5), np.str_('a'): how numpy 2 prints a number of its own
        case _:
            raise ValueError(f"not a plain value: {ast.unparse(node)!r:.60}")
