"""A tokenizer's normalizer as steps: what works by character becomes one map, the rest has steps of its own."""

import json
from functools import lru_cache
from typing import Any

from converter.device.tokenizer.characters import HANGUL, letters, replaced_by, spans
from converter.device.tokenizer.charsmap import charsmap_step
from converter.device.tokenizer.composition import form_step
from converter.device.tokenizer.form import NoTables, Row, Step, escaped, flat_parts, points_text, spans_text
from converter.device.tokenizer.pattern import Pattern, literal, pattern_of

BY_CHARACTER = {"BertNormalizer", "Lowercase", "StripAccents", "Nmt"}
FORMS = {"NFC", "NFD", "NFKC", "NFKD"}


def normalizer_steps(normalizer: dict[str, Any] | None) -> tuple[Step, ...]:
    """Return the steps of a normalizer, as tokenizer.json has it.

    Raises:
        NoTables: one of its parts has no form as tables.

    """
    made: list[Step] = []
    run: list[dict[str, Any]] = []
    parts = list(flat_parts(normalizer, "normalizers"))
    for i, part in enumerate(parts):
        if _by_character(part, parts[i + 1 :]):
            run.append(part)
            continue
        made += [*_map_steps(run), _step(part)]
        run = []
    return tuple(made + _map_steps(run))


def _by_character(part: dict[str, Any], rest: list[dict[str, Any]]) -> bool:
    """Whether a part looks at one character at a time: decomposing does where accents are stripped at once after it."""
    if part["type"] in {"NFD", "NFKD"}:
        return bool(rest) and rest[0]["type"] == "StripAccents"
    if part["type"] == "Replace":
        return len(part["pattern"].get("String", "")) == 1
    return part["type"] in BY_CHARACTER


def _map_steps(parts: list[dict[str, Any]]) -> list[Step]:
    if not parts:
        return []
    step = _map_step(json.dumps(parts))
    return [step] if len(step) > 1 or step[0][-1] == "1" else []


@lru_cache(maxsize=16)
def _map_step(parts: str) -> Step:
    from tokenizers import Tokenizer, models

    empty = json.loads(Tokenizer(models.BPE()).to_str())
    empty["normalizer"] = {"type": "Sequence", "normalizers": json.loads(parts)}
    made = replaced_by(Tokenizer.from_str(json.dumps(empty)).normalizer.normalize_str)
    hangul = all(made.get(c) == letters(c) for c in HANGUL)
    if hangul:
        for c in HANGUL:
            del made[c]
    spaced = {c for c, to in made.items() if to == (32, c, 32)}
    rows: list[Row] = [("normalize", "characters", str(int(hangul)))]
    rows += [("drop", spans_text(held)) for held in [spans(c for c, to in made.items() if not to)] if held]
    rows += [("space", spans_text(held)) for held in [spans(spaced)] if held]
    rows += [("map", f"{c:x}", points_text(to)) for c, to in made.items() if to and c not in spaced]
    return tuple(rows)


def _step(part: dict[str, Any]) -> Step:
    kind = part["type"]
    if kind in FORMS:
        return form_step(kind)
    if kind == "Precompiled":
        return charsmap_step(part["precompiled_charsmap"])
    if kind == "Prepend":
        return (("normalize", "prepend", escaped(part["prepend"])),)
    if kind == "Strip":
        return (("normalize", "strip", f"{int(part['strip_left'])}{int(part['strip_right'])}"),)
    if kind == "Replace":
        return (("normalize", "replace", escaped(part["content"])), *given_pattern(part["pattern"]).rows())
    raise NoTables(f"its normalizer {kind} has no form as tables")


def given_pattern(pattern: dict[str, str]) -> Pattern:
    """Return the pattern that tokenizer.json gives as a text or as a regular expression.

    Raises:
        NoTables: it uses what the tables cannot express.

    """
    if "Regex" in pattern:
        return pattern_of(pattern["Regex"])
    if not pattern["String"]:
        raise NoTables("it replaces the empty text")
    return literal(pattern["String"])
