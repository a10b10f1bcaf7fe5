"""How far an answer of ours is from that of the owner's library, and how far is rounding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.owner.contract import Outputs
from converter.reference import Probe

if TYPE_CHECKING:
    pass

TOLERANCE = 1e-4
"""Largest difference over the output range. Measured (`benchmarks/owner_library.py`, MiniLM): at most 5e-7 where the
reading is right (0 where both run the same batch), at least 0.06 where it is wrong."""


@dataclass(frozen=True)
class Difference:
    """One text that the owner's library answers differently."""

    probe: Probe
    output: str
    error: float
    """Over the output range; infinite where even the shapes differ."""
    ours: Outputs
    theirs: Outputs
    batched: bool = False
