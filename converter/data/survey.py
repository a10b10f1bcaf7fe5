"""How the columns of one file are read: decided once, over all of its rows, so that no two rows are read two ways."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converter.data.columns import (
    ANSWERS,
    LABELS,
    PAIRS,
    SCORES,
    TAGS,
    TEXTS,
    WORDS,
    LabelCells,
    Row,
    as_list,
    label_list,
)
from converter.errors import DataError, nearest

if TYPE_CHECKING:
    from converter.task import Task

MORE_LABELS = (
    "sentiment",
    "target",
    "category",
    "emotion",
    "intent",
    "polarity",
    "stars",
    "rating",
    "class index",
    "coarse_label",
    "y",
)
"""Columns that may hold the label where none of `LABELS` is there; they do if the model has every value."""
MORE_TAGS = ("ner", "ner_tag", "tag", "bio_tags", "iob_tags", "pos")
TEXT_COLUMNS = frozenset({*TEXTS, *WORDS, *(n for pair in PAIRS for n in pair), "question", "context"})
LABEL_COLUMNS = frozenset({*LABELS, *SCORES, *TAGS, *ANSWERS})
LABELS_IN_ORDER = tuple(dict.fromkeys((*TAGS, *LABELS)))
LEFT_OUT = ""
"""What a label map gives a label whose rows are to be left out."""
NO_AGREEMENT = "-"
"""SNLI's label of a pair on which its judges did not agree."""
_BINARY = frozenset({"0", "1", "0.0", "1.0", "true", "false"})
MOST_COLUMNS = 4096
Located = tuple[str, Row]


@dataclass(frozen=True)
class DataOptions:
    """What a user says of a file: which column is the text, the pair and the label, and what its labels are called."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """`text`, `pair` or `label` to the column's name."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """A label of the data to one of the model's, by name or index; to `""`: rows with it are left out."""
    strict: bool = True
    """A column that is not there is an error; False: the file is read as if it had not been named."""


@dataclass(frozen=True)
class Layout:
    """How one file is read."""

    columns: tuple[str, ...]
    """All that it has."""
    task: "Task"
    label_map: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    """A column to the name that tasks know it by."""
    dropped: frozenset[str] = frozenset()
    rivals: frozenset[str] = frozenset()
    """Other columns that may hold labels: they do in rows that lack `label` (rows of JSON need not be alike)."""
    label: str = ""
    """The column with the labels, empty where there is none or it needs no attention."""
    one_each: tuple[str, ...] = ()
    """A column for each of the model's labels, in their order."""
    as_flags: bool = False
    """Lists of labels are one 0 or 1 a class, not names or indices."""
    notes: tuple[str, ...] = ()

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns that nothing is read from."""
        labels = {self.label} if self.task.label_kind else LABEL_COLUMNS
        read = {*self.renamed, *self.one_each} | ((TEXT_COLUMNS | labels) - self.dropped)
        return tuple(c for c in self.columns if c not in read)

    def apply(self, row: Row, where: str) -> Row | None:
        """Return the row as tasks read it; None where it is to be left out."""
        dropped = self.dropped | (self.rivals if self.label in row else frozenset())
        made = {self.renamed.get(k, k): v for k, v in row.items() if k not in dropped}
        if self.one_each:
            return made | {"label": self._from_columns(row, where)}
        label = self.label if self.label in row else next((c for c in LABELS_IN_ORDER if c in self.rivals & {*row}), "")
        value = row.get(label)
        if not label or value is None or value == "":
            return made
        name = self.renamed.get(label, label)
        match self.task.label_kind:
            case "tags":
                return made | {name: [self._mapped(tag) for tag in _list(value, name, where)]}
            case "classes":
                whole = isinstance(value, str) and _plain(value) in {_plain(n) for n in self.task.labels}
                cells = [self._mapped(cell) for cell in ([value] if whole else _cells(value, where))]
                cells = [c for c in cells if c != LEFT_OUT]
                return made | {"label": LabelCells(tuple(cells), self.as_flags)}
            case "class":
                return self._one_label(made, name, value)
            case _:
                return made

    def _one_label(self, made: dict[str, Any], name: str, value: Any) -> Row | None:
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        undecided = str(value).strip() == NO_AGREEMENT and NO_AGREEMENT not in self.task.labels
        value = self._mapped(value)
        if value == LEFT_OUT or (undecided and value == NO_AGREEMENT):
            return None
        made.pop(name, None)
        return made | {"label": value}

    def _mapped(self, value: Any) -> Any:
        if not self.label_map:
            return value.strip() if isinstance(value, str) else value
        return next((self.label_map[k] for k in _spellings(value) if k in self.label_map), value)

    def _from_columns(self, row: Row, where: str) -> Any:
        cells = [row.get(column) for column in self.one_each]
        if all(c is None or str(c).strip() in {"", "-1", "-1.0"} for c in cells):  # Jigsaw: not judged
            return None
        flags = [int(str(c).strip().lower() in {"1", "1.0", "true"}) for c in cells]
        if self.task.label_kind == "classes":
            return LabelCells(tuple(flags), as_flags=True)
        if sum(flags) != 1:
            raise DataError(f"{sum(flags)} of its label columns are 1, and the model gives one label", where=where)
        return flags.index(1)


class _Column:
    """What all cells of a column have in common."""

    def __init__(self, name: str, task: "Task", label_map: Mapping[str, str]) -> None:
        self.task = task
        self.names = {_plain(label) for label in task.labels} | {_plain(k) for k in label_map}
        self.filled = 0
        self.named = self.binary = self.flags = bool(task.label_kind)
        self.fits = task.label_kind == "class" and name in MORE_LABELS
        self.repeats = False

    def look(self, value: Any) -> None:
        if value is None or value == "":
            return
        self.filled += 1
        self.fits = self.fits and self._fits(value)
        self.binary = self.binary and _is_binary(value, also=("-1",))
        if not (self.named or self.flags):
            return
        cells = _cells_or_none(value, self.task.label_kind)
        self.named = self.named and bool(cells is None or all(_plain(c) in self.names for c in cells))
        self.flags = self.flags and cells is not None and len(cells) == len(self.task.labels)
        self.flags = self.flags and all(_is_binary(c) for c in cells or ())
        self.repeats |= self.flags and len({str(c) for c in cells or ()}) < len(cells or ())

    def _fits(self, value: Any) -> bool:
        """Tell whether the model has such a label, by name or index."""
        try:
            return self.task.label_of({"label": value}) is not None
        except ValueError:
            return False

    def holds_names(self) -> bool:
        return bool(self.filled) and self.named


def survey(rows: Iterable[Located], task: "Task", options: DataOptions, name: str) -> Layout:
    """Decide how a file is read; `name` is what it is called in notes.

    Raises:
        DataError: a column that was named is not there, or labels stand in columns of which some are missing.

    """
    columns: dict[str, _Column] = {}
    where = name
    for i, (place, row) in enumerate(rows):
        where = where if i else place
        for column, value in row.items():
            if column not in columns:
                _refuse_many(columns, place)
                columns[column] = _Column(column, task, options.label_map)
            columns[column].look(value)
    renamed = _renamed(columns, task, options, where) if columns else {}
    dropped = _rivals(columns, renamed)
    chosen = next((c for c, n in renamed.items() if n in LABEL_COLUMNS), "")
    common: dict[str, Any] = {"columns": tuple(columns), "task": task, "renamed": renamed, "dropped": dropped}
    common["label_map"] = options.label_map
    if not task.label_kind:
        return Layout(**common, label=chosen)
    if not chosen:
        chosen, one_each = _label_column(columns, task, options, where)
        if one_each:
            note = f"{name}: labels are read from a column a label: {', '.join(one_each[:8])}"
            return Layout(**common, one_each=one_each, notes=(note,))
    if chosen and chosen not in renamed and chosen not in LABEL_COLUMNS:
        common["renamed"] = renamed | {chosen: "ner_tags" if task.label_kind == "tags" else "label"}
    if chosen and chosen not in renamed:
        common["rivals"] = frozenset(c for c in columns if c in LABEL_COLUMNS and c != chosen)
    flags = bool(chosen) and task.label_kind == "classes" and columns[chosen].flags and bool(columns[chosen].filled)
    notes = _notes(columns, "" if chosen in renamed else chosen, task, name, flags=flags)
    return Layout(**common, label=chosen, as_flags=flags, notes=notes)


def _refuse_many(columns: Mapping[str, _Column], where: str) -> None:
    if len(columns) >= MOST_COLUMNS:
        raise DataError(f"the rows have more than {MOST_COLUMNS} columns, of which all are looked at", where=where)


def _renamed(columns: Mapping[str, _Column], task: "Task", options: DataOptions, where: str) -> dict[str, str]:
    """Return the columns that the user named, with the names that the task knows them by."""
    known = task.column_names(frozenset(options.columns))
    made = {}
    for role, wanted in options.columns.items():
        column = next((c for c in columns if c == wanted.strip().lower()), None)
        if column is not None:
            made[column] = known[role]
        elif options.strict:
            raise DataError(
                f"there is no column {wanted!r} for {role}; there are {', '.join(columns)}",
                where=where,
                hint=nearest(wanted.strip().lower(), columns),
            )
    return made if len(made) == len(options.columns) else {}


def _rivals(columns: Mapping[str, _Column], renamed: Mapping[str, str]) -> frozenset[str]:
    """Return the columns that must not be read beside those that the user named."""
    found: set[str] = set()
    for kind in (TEXT_COLUMNS, LABEL_COLUMNS):
        if any(name in kind for name in renamed.values()):
            found |= {c for c in columns if c in kind and c not in renamed}
    return frozenset(found)


def _label_column(
    columns: Mapping[str, _Column], task: "Task", options: DataOptions, where: str
) -> tuple[str, tuple[str, ...]]:
    """Return the column with the labels, or a column a label; neither where nothing is told for sure."""
    usual, more = (TAGS, MORE_TAGS) if task.label_kind == "tags" else (LABELS, MORE_LABELS)
    present = [n for n in usual if n in columns]
    if present:
        # CoNLL-2003 has tags of three kinds beside each other.
        fitting = [n for n in present if columns[n].holds_names()] if task.label_kind == "tags" else []
        speech = ["pos_tags"] if "pos_tags" in present and "O" not in task.labels else []
        return (fitting or speech or present)[0], ()
    if task.label_kind != "tags" and (one_each := _one_each(columns, task, options, where)):
        return "", one_each
    fitting = [
        n for n in more if n in columns and (columns[n].holds_names() or (columns[n].filled and columns[n].fits))
    ]
    named = [n for n, c in columns.items() if n not in TEXT_COLUMNS and c.holds_names()]
    return (fitting or (named if len(named) == 1 else []) or [""])[0], ()


def _one_each(columns: Mapping[str, _Column], task: "Task", options: DataOptions, where: str) -> tuple[str, ...]:
    by_label = {_plain(options.label_map.get(c, c)): c for c, seen in columns.items() if seen.filled and seen.binary}
    found = {label: by_label[_plain(label)] for label in task.labels if _plain(label) in by_label}
    if len(found) < 2:
        return ()
    missing = [label for label in task.labels if label not in found]
    if missing:
        raise DataError(
            f"{', '.join(list(found.values())[:5])} are columns of the model's labels, and {missing[0]!r} has none",
            where=where,
            hint="add the column, name it by --label-map, or name the one column with labels: --columns label=NAME",
        )
    return tuple(found.values())


def _notes(columns: Mapping[str, _Column], chosen: str, task: "Task", name: str, *, flags: bool) -> tuple[str, ...]:
    if not chosen:
        return ()
    usual = TAGS if task.label_kind == "tags" else LABELS
    others = [c for c in columns if c != chosen and c in usual]
    made = []
    if chosen not in usual or others:
        rest = f"; {', '.join(others)}: not read" if others else ""
        made.append(f"{name}: labels are read from the column {chosen!r}{rest}")
    if flags and not columns[chosen].repeats:
        made.append(f"{name}: its lists of labels are read as one 0 or 1 a class, not as indices of classes")
    return tuple(made)


def _list(value: Any, name: str, where: str) -> list[Any]:
    try:
        return as_list(value, name)
    except ValueError as error:
        raise DataError(str(error), where=where) from None


def _cells(value: Any, where: str) -> list[Any]:
    try:
        return label_list(value)
    except ValueError as error:
        raise DataError(str(error), where=where) from None


def _cells_or_none(value: Any, kind: str) -> Sequence[Any] | None:
    """Return the labels in a cell as far as it may be one with labels; None where it cannot be."""
    try:
        found = as_list(value, "labels") if kind == "tags" else label_list(value) if kind == "classes" else [value]
    except ValueError:
        return None
    return found


def _is_binary(value: Any, also: Sequence[str] = ()) -> bool:
    text = str(value).strip().lower()
    return text in _BINARY or text.removesuffix(".0") in also


def _spellings(value: Any) -> list[str]:
    """Return how a label may be written in a map: as it is, or without the point of a whole number."""
    text = str(value).strip()
    whole = text.removesuffix(".0")
    return [text, text.lower(), whole] if isinstance(value, bool) else [text, whole]


def _plain(name: Any) -> str:
    return str(name).strip().casefold().replace("_", " ").replace("-", " ")
