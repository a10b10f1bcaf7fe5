"""How far a package may be from its source."""

from dataclasses import dataclass

from converter.binding import option


@dataclass(frozen=True)
class Limits:
    """Errors are relative to the output range (largest minus smallest value of the source over all probes)."""

    max_error: float | None = option(None, "worst error over the output range", low=0.0)
    mean_error: float | None = option(None, "mean error over the output range", low=0.0)
    cosine: float | None = option(None, "least mean cosine to the source's outputs", low=-1.0, high=1.0)
    agreement: float | None = option(None, "least share of equal decisions", low=0.0, high=1.0)
    stability: float | None = option(
        None, "least share of decisions equal under other padding and in another batch", low=0.0, high=1.0
    )
    max_drop: float | None = option(
        None, "most that the task's metric may fall, in metric units (0.005 is half a point)", low=0.0
    )
