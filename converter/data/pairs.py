"""Rows of a file that a writing model is judged by: a text and what should be written about it, or a text alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from converter.data.columns import TEXTS, Row
from converter.data.languages import language_code, language_of
from converter.data.literals import parse_literal
from converter.errors import DataError
from converter.examples import Example, References

SOURCE, TARGET = "source", "target"
PAIRED = (
    (SOURCE, TARGET),
    (SOURCE, "references"),
    (SOURCE, "reference"),
    (SOURCE, "translation"),
    ("src", "tgt"),
    ("src", "trg"),
    ("src", "ref"),
    ("input", "output"),
    ("inputs", "targets"),
    ("input_text", "target_text"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("text", TARGET),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
"""Columns of a text and of what should be written: as sets of translations, summaries and completions name them."""
TRANSLATION = "translation"
"""Holds a table of languages, `{"en": …, "de": …}`, in WMT's and OPUS' sets."""
READ = tuple(dict.fromkeys((*(source for source, _ in PAIRED), *TEXTS)))
"""Columns that hold a text where nothing says what should be written."""
NAMES = frozenset({TRANSLATION, *(n for pair in PAIRED for n in pair), *READ})
HINT = "source and target, translation: {en: …, de: …}, or columns named by the languages, such as en and de"

Languages = tuple[str, str]
"""What a model reads and what it writes, two letters each; empty where its folder does not say."""


def is_pair_column(name: str) -> bool:
    """Tell whether a column is known to hold a text or what should be written about it."""
    return name in NAMES or bool(language_of(name))


def flat_row(row: Row) -> Row:
    """Return a row with the languages of its `translation` as columns too, so that `--columns` can name them."""
    nested = _decoded(row.get(TRANSLATION))
    return {**{str(k).lower(): v for k, v in nested.items()}, **row} if isinstance(nested, Mapping) else row


def written_example(row: Row, where: str, languages: Languages, *, alone: bool) -> Example:
    """Read one row. `alone`: a text without anything beside it is scored itself, by its perplexity.

    A text in a column of prompts or sources is a prompt, too.

    Raises:
        DataError: a side is empty or no text, the row has no column that is known, or lacks a language of the model's.

    """
    nested = _decoded(row.get(TRANSLATION))
    for source, target in PAIRED[:1] if isinstance(nested, Mapping) else PAIRED:
        if source in row and target in row:
            return _pair(row, source, target, where)
    if isinstance(nested, Mapping):
        return _by_language({str(k): v for k, v in nested.items()}, where, languages)
    if sum(bool(language_of(name)) for name in row) > 1:
        return _by_language({k: v for k, v in row.items() if language_of(k)}, where, languages)
    name = next((n for n in READ if n in row), None)
    if name is None:
        raise DataError(
            f"columns missing: found {', '.join(row) or 'none'}; wanted a text, or a text and its target",
            where=where,
            hint=f"{HINT}; --columns text=NAME,label=NAME says which column is what",
        )
    label = References((), prompt=name not in TEXTS) if alone else None
    return Example(_side(row[name], name, where), label=label, where=where)


def _by_language(row: Row, where: str, languages: Languages) -> Example:
    """Read the two languages of a model that translates; rows of other languages are refused by name."""
    codes = {name: language_code(name) for name in row}
    told = " and ".join(row)
    if not all(languages):
        raise DataError(
            f"the row has {told}, and the model does not say which of them it reads and which it writes",
            where=where,
            hint=f"--columns text={next(iter(row))},label={list(row)[-1]} says it, or the other way round",
        )
    found = [next((n for n, code in codes.items() if code == wanted), None) for wanted in languages]
    for name, language, does in zip(found, languages, ("reads", "writes"), strict=True):
        if name is None:
            raise DataError(
                f"the row has {told}; the model {does} {language!r}, which is not among them",
                where=where,
                hint="give pairs in the model's languages; --columns text=NAME,label=NAME if they are named otherwise",
            )
    return _pair(row, str(found[0]), str(found[1]), where)


def _pair(row: Row, source: str, target: str, where: str) -> Example:
    right = row[target]
    if isinstance(right, (list, tuple)):
        texts = tuple(_side(one, target, where) for one in right)
        if not texts:
            raise DataError(f"{target} is empty", where=where, hint="give one right answer at least, or remove the row")
    else:
        texts = (_side(right, target, where),)
    return Example(_side(row[source], source, where), label=References(texts), where=where)


def _side(value: Any, name: str, where: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{name} is empty", where=where, hint="give the row both of its sides, or remove it")
    if not isinstance(value, str):
        raise DataError(f"{name} is {value!r:.40}, wanted text", where=where, hint=HINT)
    return value


def _decoded(value: Any) -> Any:
    """Return what a table's cell holds where it is a table itself, in JSON or as Python writes it."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return parse_literal(value)
    except ValueError:
        return value


def references_of(examples: Sequence[Example]) -> list[tuple[str, ...]]:
    """Return the right answers of texts that have some."""
    return [e.label.texts for e in examples if isinstance(e.label, References)]
