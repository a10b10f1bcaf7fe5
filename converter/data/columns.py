"""Rows of an evaluation file: which fields hold the texts, the words, the question and the label."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.data.literals import parse_literal
from converter.errors import DataError
from converter.examples import Answer, Example, Label

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("#1 string", "#2 string"),
    ("query", "passage"),
    ("question", "passage"),
)
"""Columns of two texts that are encoded together, as the data sets of GLUE name them."""
TEXTS = (
    "sentence",
    "text",
    "content",
    "review",
    "comment_text",
    "comment",
    "review_text",
    "reviewtext",
    "tweet",
    "body",
    "message",
    "utterance",
    "document",
    "description",
    "headline",
    "title",
)
LABELS = ("label", "labels", "gold_label", "is_duplicate", "quality", "class")
SCORES = ("score", "similarity_score", "similarity", "relatedness_score")
WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "label", "pos_tags", "chunk_tags")
QUESTION, CONTEXT, ANSWERS = ("question",), ("context",), ("answers", "answer", "answer_text")

KNOWN = frozenset(
    {*TEXTS, *LABELS, *SCORES, *WORDS, *TAGS, *QUESTION, *CONTEXT, *ANSWERS, *(n for p in PAIRS for n in p)}
)

Row = Mapping[str, Any]
"""Column names, lower case and stripped, to cells: text from tables, any JSON value from JSON."""
LabelReader = Callable[[Row], Label]


@dataclass(frozen=True)
class LabelCells:
    """The labels of one row, and whether they are one 0 or 1 a class; that is decided once for a whole file."""

    cells: tuple[Any, ...]
    as_flags: bool


def text_example(row: Row, where: str, label_of: LabelReader) -> Example:
    """Read one text, or two that are encoded together."""
    for first, second in PAIRS:
        if first in row and second in row:
            texts = _text(row, first, where), _text(row, second, where)
            return Example(*texts, label=read_label(row, where, label_of), where=where)
    for name in TEXTS:
        if name in row:
            return Example(_text(row, name, where), label=read_label(row, where, label_of), where=where)
    raise missing_columns(row, where, "sentence or text, or a pair such as sentence1 and sentence2")


def words_example(row: Row, where: str, label_of: LabelReader) -> Example:
    """Read a text split into words with one tag a word, or a plain text without tags."""
    name = _first(row, WORDS)
    if name is None:
        if _first(row, TEXTS) is None:
            raise missing_columns(row, where, "tokens and ner_tags, or text")
        return text_example(row, where, lambda _: None)
    words = _cell_list(row, name, where)
    if not all(isinstance(w, str) for w in words):
        raise DataError(f"{name} holds something other than words", where=where)
    label = read_label(row, where, label_of)
    if isinstance(label, tuple) and len(label) != len(words):
        raise DataError(f"{len(words)} words and {len(label)} tags", where=where, hint="give one tag per word")
    return Example(" ".join(words), words=tuple(words), label=label, where=where)


def question_example(row: Row, where: str) -> Example:
    """Read a question, its context and, where they are known, the answers (SQuAD's shape)."""
    if "question" not in row or "context" not in row:
        raise missing_columns(row, where, "question and context (and answers)")
    context = _text(row, "context", where)
    name = _first(row, ANSWERS)
    given = None if name is None else _decoded(row[name])
    if given in (None, "") and str(row.get("is_impossible")).lower() == "true":  # SQuAD 2.0
        given = []
    if isinstance(given, str) and given and str(row.get("answer_start", "")).isdecimal():
        given = {"text": [given], "answer_start": [int(row["answer_start"])]}
    label = None if given is None or given == "" else _answer(given, context, where)
    return Example(_text(row, "question", where), context, label=label, where=where)


def texts_of_row(row: Row, where: str) -> tuple[str, ...]:
    """Return all texts of a row, of whatever task it is."""
    if "question" in row and "context" in row:
        made = question_example({k: v for k, v in row.items() if k not in ANSWERS}, where)
    else:
        made = words_example({k: v for k, v in row.items() if k not in TAGS}, where, lambda _: None)
    return (made.text,) if made.pair is None else (made.text, made.pair)


def tags_of(row: Row) -> list[Any] | None:
    """Return the tags' cell as a list, None where there is none; `ValueError` where it is no list."""
    name = _first(row, TAGS)
    if name is None or row[name] is None or row[name] == "":
        return None
    return as_list(row[name], name)


def label_cell(row: Row, names: Sequence[str]) -> Any:
    """Return the first of `names` that the row has and that is not empty; None where there is none."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            return value
    return None


def read_label(row: Row, where: str, label_of: LabelReader) -> Label:
    """Read the label with `label_of`; its `ValueError` becomes a `DataError` that names the row."""
    try:
        return label_of(row)
    except ValueError as error:
        message, hint = (*error.args, "", "")[:2]
        raise DataError(str(message), where=where, hint=str(hint)) from None


def as_number(value: Any, what: str) -> float:
    """Return a finite number; `ValueError` where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the {what} {value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"the {what} {value!r} is not a finite number")
    return number


def as_list(value: Any, name: str) -> list[Any]:
    """Read a list from JSON, from a cell that holds JSON or a Python list, or from words apart by spaces."""
    found = _decoded(value)
    if isinstance(found, (list, tuple)):
        return list(found)
    if isinstance(found, str) and not found.lstrip().startswith("["):
        return found.split()
    if isinstance(found, int):
        return [found]
    raise ValueError(f"{name} is not a list: {value!r:.60}")


def label_list(value: Any) -> list[Any]:
    """Split a cell such as `joy, anger`, `[2, 27]` or `["joy"]` into labels; `ValueError` where it is no list."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        mark = next((m for m in ("\n", "|", ";", ",") if m in value), ",")  # a name may hold the ones after
        return [part.strip() for part in value.split(mark) if part.strip()]
    return as_list(value, "labels")


def missing_columns(row: Row, where: str, wanted: str) -> DataError:
    """Return the error that names the columns found, those wanted and the nearest."""
    found = ", ".join(row) or "none"
    near = next((f"did you mean {n[0]!r} by {c!r}?" for c in row if (n := _close(c))), "")
    hint = near or "--columns text=NAME,label=NAME says which column is what (pair=NAME: a second text)"
    return DataError(f"columns missing: found {found}; wanted {wanted}", where=where, hint=hint)


def misspelled(columns: Iterable[str]) -> tuple[str, str] | None:
    """Return a column that is nearly the name of a label column, and that name; None where there is none."""
    names = list(columns)
    if any(n in {*LABELS, *SCORES, *TAGS, *ANSWERS} for n in names):
        return None
    labels = ("label", "labels", "score", "tags", "ner_tags", "answers")
    for name in names:
        close = difflib.get_close_matches(name, labels, n=1, cutoff=0.75)
        if name not in KNOWN and close:
            return name, close[0]
    return None


def _close(column: str) -> list[str]:
    return [] if column in KNOWN else difflib.get_close_matches(column, sorted(KNOWN), n=1, cutoff=0.7)


def _first(row: Row, names: Sequence[str]) -> str | None:
    return next((n for n in names if n in row), None)


def _text(row: Row, name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{name} is {value!r:.40}, wanted text", where=where)
    return value


def _cell_list(row: Row, name: str, where: str) -> list[Any]:
    try:
        return as_list(row[name], name)
    except ValueError as error:
        raise DataError(str(error), where=where) from None


def _decoded(value: Any) -> Any:
    """Return what a table's cell holds where it holds JSON or a Python literal, else the value itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in {"[", "{"}:
        return value
    try:
        return parse_literal(value)
    except ValueError:
        return value


def _answer(given: Any, context: str, where: str) -> Answer:
    if isinstance(given, str) and given.lstrip()[:1] in {"[", "{"} and given not in context:
        raise DataError(
            f"the answers cannot be read: {given!r:.60}",
            where=where,
            hint='wanted JSON, or a Python literal: {"text": ["…"], "answer_start": [0]} (empty: no answer)',
        )
    texts, starts = _answer_parts(given, where)
    if not any(texts):
        return Answer((), ())
    if not all(isinstance(t, str) for t in texts):
        raise DataError("answers hold something other than text", where=where)
    if not starts:
        return Answer(tuple(texts), tuple(context.find(t) for t in texts))
    if len(starts) != len(texts):
        raise DataError(f"{len(texts)} answers and {len(starts)} starts", where=where)
    if not all(isinstance(s, int) for s in starts):
        raise DataError("answer_start holds something other than whole numbers", where=where)
    for text, start in zip(texts, starts, strict=True):
        if text and context[start : start + len(text)] != text:
            raise DataError(
                f"the answer {text!r:.60} is not at character {start} of its context",
                where=where,
                hint="answer_start counts characters (not bytes) from 0",
            )
    return Answer(tuple(texts), tuple(starts))


def _answer_parts(given: Any, where: str) -> tuple[list[Any], list[Any]]:
    """Split any shape of answers into texts and starts: no text says that the context does not answer."""
    if isinstance(given, str):
        return [given], []
    if isinstance(given, Mapping) and "text" in given:
        texts, starts = given["text"], given.get("answer_start", [])
        return (
            list(texts) if isinstance(texts, (list, tuple)) else [texts],
            list(starts) if isinstance(starts, (list, tuple)) else [starts],
        )
    if isinstance(given, (list, tuple)):
        if all(isinstance(g, str) for g in given):
            return list(given), []
        if all(isinstance(g, Mapping) and "text" in g for g in given):
            return [g["text"] for g in given], [g["answer_start"] for g in given if "answer_start" in g]
    raise DataError(
        f"answers are {given!r:.60}", where=where, hint='wanted {"text": ["…"], "answer_start": [0]} (empty: no answer)'
    )
