"""How far a package may be from its source."""

from dataclasses import dataclass

from converter.binding import option


@dataclass(frozen=True)
class Limits:
    """Errors are relative to the output range (largest minus smallest value of the source over all probes)."""

    max_error: float | None = option(None, "largest error of any output value, relative to the output range", low=0.0)
    mean_error: float | None = option(None, "mean error of all output values, relative to the output range", low=0.0)
    cosine: float | None = option(None, "lowest mean cosine similarity to the source's outputs", low=-1.0, high=1.0)
    agreement: float | None = option(
        None, "lowest share of texts that get the same answer as from the source", low=0.0, high=1.0
    )
    stability: float | None = option(
        None, "lowest share of texts whose answer stays the same with other padding and in a batch", low=0.0, high=1.0
    )
    max_drop: float | None = option(
        None, "largest allowed drop of the task's metric against the source (0.005 is half a percentage point)", low=0.0
    )
