"""What changed from one package to the next, as Markdown for a pull request."""

import html
from collections.abc import Sequence

from converter.report.package_diff import Answers, PackageDiff
from converter.report.words import NOTHING, milliseconds, number, share, size

SHOWN_ANSWERS = 20
SHOWN_CHARACTERS = 160


def markdown(found: Sequence[PackageDiff], added: Sequence[str] = (), removed: Sequence[str] = ()) -> str:
    """Return the document: one section a package, and the packages that only one side has."""
    parts = ["## plm-export: what changed"]
    parts += [f"New package: `{_plain(name)}`" for name in added] + [f"Gone: `{_plain(name)}`" for name in removed]
    for one in found:
        parts += [f"### {_plain(one.name)}", _figures(one), _answers(one.answers), *_operators(one)]
    return "\n\n".join(parts) + "\n"


def _figures(one: PackageDiff) -> str:
    rows = [
        ("verdict", *one.status, ""),
        ("size", *(size(n) for n in one.size_bytes), _change(*one.size_bytes)),
        ("latency", *(milliseconds(ms) for ms in one.milliseconds), _change(*one.milliseconds)),
    ]
    rows += [(name, number(a), number(b), _change(a, b)) for name, (a, b) in one.metric.items()]
    # What differs in any release (hashes, times of single lengths) says nothing; settings and versions do.
    kinds = ("target", "precision", "task", "source.", "tool.", "version.", "stages")
    rows += [
        (key, _shown(change["old"]), _shown(change["new"]), "")
        for key, change in one.facts.items()
        if key.startswith(kinds) and not isinstance(change["old"], dict)
    ]
    return _table(("", "before", "after", "change"), rows)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return NOTHING if value is None else str(value)


def _change(old: float | None, new: float | None) -> str:
    if old is None or new is None or not old:
        return ""
    return "" if old == new else f"{100 * (new - old) / abs(old):+.1f} %"


def _answers(found: Answers) -> str:
    if found.reason:
        return f"**Answers were not compared**: {html.escape(_plain(found.reason))}."
    head = (
        f"**Answers**: {found.n_same} of {found.n_texts} ({share(found.n_same / max(1, found.n_texts))}) texts get "
        f"{found.measure} ({found.source})."
    )
    if not found.changed:
        return head
    table = _table(("text", "before", "after"), [(c.text, c.old, c.new) for c in found.changed[:SHOWN_ANSWERS]])
    more = len(found.changed) - SHOWN_ANSWERS
    return "\n\n".join([head, table, *([f"… and {more} more."] if more > 0 else [])])


def _operators(one: PackageDiff) -> list[str]:
    if not one.operators:
        return ["**Operators**: the same."]
    rows = [
        (name, str(a) if a else NOTHING, str(b) if b else NOTHING, "added" if not a else "removed" if not b else "")
        for name, (a, b) in one.operators.items()
    ]
    return ["**Operators**:", _table(("operator", "before", "after", ""), rows)]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(text: str) -> str:
    """Return text as code: nothing in it is a link, a mention of somebody, markup, or the end of its cell."""
    shown = _plain(text)
    if not shown:
        return ""
    cut = shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"
    return f"<code>{html.escape(cut).replace('|', '&#124;').replace('`', '&#96;')}</code>"


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
