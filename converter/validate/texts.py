"""What of the judged texts was read: how many were cut at the longest input, and how many were read in windows."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converter.data.probes import is_edge
from converter.examples import text_key

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.reference import Reference

LENGTHS = "lengths"
NOTES = "notes"
CALIBRATED = "calibrated_on"


def text_facts(source: "TorchModel", reference: "Reference") -> dict[str, Any]:
    """Return `lengths` (of the user's texts, or our ordinary ones: edge cases are long by intent) and `notes`."""
    cut: dict[Example, bool] = {}
    windows: dict[Example, int] = {}
    scored = {p.example.where: p.example.text for p in reference.scored if p.example.where}
    for probe in (*reference.probes, *reference.scored):
        if is_edge(probe.example) or _is_part(probe.example, scored):
            continue
        text = replace(probe.example, window=0) if probe.example.window else probe.example
        cut[text] = cut.get(text, False) or probe.encoding.truncated
        windows[text] = max(windows.get(text, 0), probe.example.window + 1)
    found = {
        "max_length": source.max_length,
        "texts": len(cut),
        "cut": sum(cut.values()),
        "in_windows": sum(n > 1 for n in windows.values()),
    }
    learned = sum(text_key(text) in reference.text.calibrated for text in cut)
    facts: dict[str, Any] = {
        LENGTHS: found,
        NOTES: [*reference.notes, *([said_of_calibrated(learned, len(cut))] if learned else [])],
    }
    return facts | ({CALIBRATED: {"texts": learned, "of": len(cut)}} if learned else {})


def _is_part(example: "Example", scored: dict[str, str]) -> bool:
    """Tell whether a text is the beginning of one that is scored: one text of the user's, and counted as that."""
    whole = scored.get(example.where, "")
    return len(example.text) < len(whole) and whole.startswith(example.text)


def said_of_calibrated(learned: int, judged: int) -> str:
    """Return the sentence on judged texts that the package was made with: on others it may do worse.

    >>> said_of_calibrated(12, 400)
    '12 of 400 judged texts were calibrated on as well: give --eval other text'
    """
    return f"{learned} of {judged} judged texts were calibrated on as well: give --eval other text"


def said_of_lengths(found: dict[str, Any] | None) -> str:
    """Return the sentence on texts that were too long; empty where all were read whole at once.

    >>> said_of_lengths({"max_length": 128, "texts": 400, "cut": 3, "in_windows": 0})
    '3 of 400 texts are longer than 128 tokens and were cut there: what follows is not read'
    """
    if not found:
        return ""
    parts = []
    if found["cut"]:
        parts.append(
            f"{found['cut']} of {found['texts']} texts are longer than {found['max_length']} tokens and were cut "
            "there: what follows is not read"
        )
    if found["in_windows"]:
        parts.append(
            f"{found['in_windows']} of {found['texts']} contexts are longer than {found['max_length']} tokens with "
            "their question and were read in overlapping windows: the best answer of all windows counts"
        )
    return "; ".join(parts)
