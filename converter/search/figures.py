"""What is known of a candidate: how well it answers the tuning text, how long it takes, and its size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How far a trial came."""

    MEASURED = "measured"
    BEHIND = "behind"
    """No package was made of it: others answered better with as much training."""
    DISCARDED = "discarded"
    """Never made: by forecast it is too slow or too large."""
    REFUSED = "refused"
    """A stage or the target refused it, or failed."""


@dataclass(frozen=True)
class Figures:
    """Measured on the tuning text. `losses` has one value for each text, or group of texts; their mean is `loss`."""

    loss: float
    """Drop of the metric where the text is labelled, else the share of texts with another answer."""
    metric: float | None
    drop: float | None
    agreement: float
    milliseconds: float
    """Of one text, as the plain package would take on a quiet machine times the measured ratio to it."""
    speedup: float
    """Times as fast as the plain package of its target; the median over texts, both in turns."""
    megabytes: float
    losses: tuple[float, ...] = ()
    effort: float = 1.0
    """Share of the training and of the calibration text that it was made with."""

    def table(self) -> dict[str, Any]:
        return asdict(self) | {"losses": [round(x, 6) for x in self.losses]}


def figures_of(table: Mapping[str, Any]) -> Figures:
    return Figures(**{**table, "losses": tuple(table["losses"])})


@dataclass(frozen=True)
class Trial:
    """One candidate, and what became of it."""

    number: int
    recipe: Mapping[str, Any]
    """As a recipe file has it, without model, text and limits."""
    state: State
    start: str = ""
    """The shipped recipe that it is; empty where the search came upon it."""
    figures: Figures | None = None
    said: str = ""
    """Why it was not measured."""
    seconds: float = 0.0
    where: str = ""
    """The machine of a cluster that made it; empty: this one."""
    tries: int = 1
    """2: a worker was lost with it, and another made it."""

    @property
    def name(self) -> str:
        return self.start or f"trial {self.number}"

    def table(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "recipe": dict(self.recipe),
            "state": str(self.state),
            "start": self.start,
            "figures": self.figures.table() if self.figures else None,
            "said": self.said,
            "seconds": round(self.seconds, 2),
            "where": self.where,
            "tries": self.tries,
        }


def trial_of(table: Mapping[str, Any]) -> Trial:
    figures = figures_of(table["figures"]) if table["figures"] else None
    return Trial(**{**table, "state": State(table["state"]), "figures": figures})
