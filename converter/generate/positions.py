"""Rotary positions that are computed otherwise for long texts than for short ones."""

from collections.abc import Mapping
from typing import Any

LONGROPE = "longrope"


def rope_switches_at(config: Any) -> int | None:
    """Return past how many tokens transformers reads a text again whose cache it has; None where it never does.

    Phi 3 for long contexts has frequencies for texts as long as those it learned first, and others for longer ones.
    Other families with such positions go on with the cache they have, and so does the loop.
    """
    learned = getattr(config, "original_max_position_embeddings", None)
    table = getattr(config, "rope_parameters", None)
    changes = isinstance(table, Mapping) and table.get("rope_type") == LONGROPE
    return int(learned) if changes and learned else None
