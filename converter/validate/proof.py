"""What the proof of a package works from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from converter.stage import SILENT, Progress
from converter.validate.asked import Asked

if TYPE_CHECKING:
    from converter.reference import Reference
    from converter.validate.owner import OwnerVerdict


@dataclass(frozen=True)
class ProofContext:
    """What every package of a run is held to; taken from the source before anything is made."""

    work: Path
    """A scratch folder on the output's own disk; removed when the run ends."""
    reference: "Reference"
    """The source's own answers to the probes."""
    owner: "OwnerVerdict"
    """How these answers compare with those of the library that the source's owner uses."""
    progress: Progress = SILENT
    asked: Asked = field(default_factory=Asked)
    """What models were asked for the packages before."""
