"""Under which licence a model is shared, and the files that must go with it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import SourceCard
from converter.errors import SourceError

if TYPE_CHECKING:
    from converter.artifact import TorchModel

MOST_BYTES = 2**20
"""The longest licences have 50 kB."""
NOTICES = re.compile(r"(licen[cs]e|notice|copying|use_policy)[\w.-]*", re.IGNORECASE)
TEXTS = {"", ".md", ".txt", ".rst"}
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
UNKNOWN = {"", "unknown", "none"}
OTHER = "other"
"""The Hub's word for a licence that has no name of its own there; `license_name` or a file says which."""


def read_card(folder: Path) -> SourceCard:
    """Read what the model card of `folder` says in its front matter, and find the licence files beside it."""
    table = _front_matter(folder / "README.md")
    licence = _text(table, "license") or _text(table, "licence")
    languages = table.get("language")
    listed = languages if isinstance(languages, list) else [languages]
    return SourceCard(
        licence=None if (licence or "").lower() in UNKNOWN else licence,
        licence_name=_text(table, "license_name"),
        licence_link=_text(table, "license_link"),
        languages=tuple(one for one in listed if isinstance(one, str) and re.fullmatch(r"[\w-]{2,20}", one)),
        notices={p.name: p for p in sorted(folder.iterdir()) if _is_notice(p)} if folder.is_dir() else {},
    )


def joined(card: SourceCard, base: SourceCard) -> SourceCard:
    """Return the card of an adapter with that of its base: what one does not say, the other may, and notices add up."""
    more = {name if name not in card.notices else f"base-{name}": path for name, path in base.notices.items()}
    licensed = card if card.licence else base
    return SourceCard(
        licence=licensed.licence,
        licence_name=licensed.licence_name,
        licence_link=licensed.licence_link,
        languages=card.languages or base.languages,
        notices={**card.notices, **more},
    )


def check_licence(source: "TorchModel", note: Callable[[str], None], *, required: bool) -> None:
    """Say once that the licence of a model is unknown.

    Raises:
        SourceError: it is `required`.

    """
    if source.card.licensed:
        return
    if required:
        raise SourceError(
            "the model does not state its licence: its model card (README.md) has no `license`, and there is no "
            "LICENSE file",
            where=str(source.folder),
            hint="add one of the two after asking whoever made the model, or leave --require-license out",
        )
    note("the model does not state its licence: ask whoever made it before you ship packages (--require-license stops)")


def write_notices(card: SourceCard, folder: Path) -> None:
    """Copy the licence files of the source into a package, byte by byte."""
    for name, path in card.notices.items():
        (folder / name).write_bytes(path.read_bytes())


def _is_notice(path: Path) -> bool:
    named = NOTICES.fullmatch(path.name) and path.suffix.lower() in TEXTS
    return bool(named) and path.is_file() and path.stat().st_size <= MOST_BYTES


def _front_matter(card: Path) -> Mapping[str, Any]:
    import yaml

    if not card.is_file():
        return {}
    with card.open("rb") as opened:
        text = opened.read(MOST_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    found = FRONT_MATTER.match(text)
    try:
        table = yaml.safe_load(found.group(1)) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a card is for people: a broken one says nothing
        return {}
    return table if isinstance(table, dict) else {}


def _text(table: Mapping[str, Any], key: str) -> str | None:
    """Return a line of text; a list of licences as one."""
    value = table.get(key)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = " AND ".join(value)
    if not isinstance(value, str):
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())[:200] or None
