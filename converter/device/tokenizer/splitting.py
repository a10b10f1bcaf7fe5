"""A tokenizer's pre-tokenizer as steps: cut at a pattern, mark spaces, write bytes as letters."""

from typing import Any

from converter.device.tokenizer.characters import digits, of_words, punctuation, white_space
from converter.device.tokenizer.form import NoTables, Step, escaped, flat_parts
from converter.device.tokenizer.normalizing import given_pattern
from converter.device.tokenizer.pattern import Pattern, one_of, pattern_of

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by (Radford et al., 2019)."""
BEHAVIORS = {
    "Removed": "removed",
    "Isolated": "isolated",
    "MergedWithPrevious": "previous",
    "MergedWithNext": "next",
    "Contiguous": "contiguous",
}


def split_steps(splitter: dict[str, Any] | None) -> tuple[Step, ...]:
    """Return the steps of a pre-tokenizer, as tokenizer.json has it.

    Raises:
        NoTables: one of its parts has no form as tables.

    """
    return tuple(step for part in flat_parts(splitter, "pretokenizers") for step in _steps(part))


def _steps(part: dict[str, Any]) -> list[Step]:
    kind = part["type"]
    if kind == "ByteLevel":
        return _byte_level(part)
    if kind == "Metaspace":
        scheme = part.get("prepend_scheme", "always")
        return [(("split", "metaspace", escaped(part["replacement"]), scheme, str(int(part.get("split", True)))),)]
    if kind == "Split":
        return [_cut(given_pattern(part["pattern"]), BEHAVIORS[part["behavior"]], invert=part["invert"])]
    return [_cut(*cut) for cut in _cuts(part)]


def _cuts(part: dict[str, Any]) -> list[tuple[Pattern, str]]:
    match part["type"]:
        case "BertPreTokenizer":
            return [(one_of(white_space()), "removed"), (one_of(punctuation()), "isolated")]
        case "WhitespaceSplit":
            return [(one_of(white_space()), "removed")]
        case "Whitespace":
            return [(one_of(white_space()), "removed"), (one_of(of_words(), "*"), "isolated")]
        case "Punctuation":
            return [(one_of(punctuation()), BEHAVIORS[part["behavior"]])]
        case "Digits":
            return [(one_of(digits(), "1" if part["individual_digits"] else "*"), "isolated")]
        case _:
            raise NoTables(f"its pre-tokenizer {part['type']} has no form as tables")


def _byte_level(part: dict[str, Any]) -> list[Step]:
    first = [(("split", "prefix"),)] if part["add_prefix_space"] else []
    cut = [_cut(pattern_of(GPT2), "isolated")] if part.get("use_regex", True) else []
    return [*first, *cut, (("split", "bytes"),)]


def _cut(pattern: Pattern, behavior: str, *, invert: bool = False) -> Step:
    return (("split", "pattern", behavior, str(int(invert))), *pattern.rows())
