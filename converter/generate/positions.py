"""Rotary positions that are computed otherwise for long texts than for short ones."""

from collections.abc import Mapping
from typing import Any

LONGROPE = "longrope"
CHANGING = ("dynamic", LONGROPE)
"""Kinds of positions (transformers' `rope_type`) that are computed otherwise for texts longer than those first learned:
keys that are in the cache already would have to be computed again."""


def kinds_of(module: Any) -> dict[str, str]:
    """Return the kinds of a module's positions by the layers that they are for, "" for all."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, str):
        return {"": kinds}
    return kinds if isinstance(kinds, dict) else {}


def is_changing(kind: str) -> bool:
    return any(word in kind for word in CHANGING)


def rope_switches_at(config: Any) -> int | None:
    """Return past how many tokens transformers reads a text again whose cache it has; None where it never does.

    Phi 3 for long contexts has frequencies for texts as long as those it learned first, and others for longer ones.
    Other families with such positions go on with the cache they have, and so does the loop.
    """
    learned = getattr(config, "original_max_position_embeddings", None)
    table = getattr(config, "rope_parameters", None)
    changes = isinstance(table, Mapping) and table.get("rope_type") == LONGROPE
    return int(learned) if changes and learned else None
