"""What a precision is: one record, kept by the quantizer that makes it, and how far a package of it may be off."""

from dataclasses import dataclass
from typing import ClassVar, Generic

from converter.binding import option
from converter.stage import Made, Stage


@dataclass(frozen=True)
class Limits:
    """How far a package may be from its source.

    Errors are relative to the output range (largest minus smallest value of the source over all probes).
    """

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
    sequences: float | None = option(
        None,
        "lowest share of texts after which a model that writes text writes what the source writes; "
        "where it is left out, that of agreement",
        low=0.0,
        high=1.0,
    )
    perplexity: float | None = option(
        None, "highest perplexity of the source's own texts, over what it is for the source; usually 1.01", low=1.0
    )


@dataclass(frozen=True)
class Precision:
    """One entry of a target's menu: all that anyone must know of it."""

    name: str
    """As it is typed behind `--quantize`."""
    limits: Limits
    """How far a package of it may be from its source, where the recipe says nothing else."""
    bytes_a_weight: float = 1
    """As sizes are forecast and budgets counted."""
    tolerance: float = 0.05
    """How far replayed outputs may be from the recorded ones, over the output range. int8 kernels round and saturate
    differently from CPU to CPU; on the machine that sealed it, the change is 0."""
    suffix: str = ""
    """What Optimum and transformers.js look for behind the name of a graph's file."""
    client_dtype: str = "fp32"
    """What transformers.js calls it; without it in config.json it would look for another file."""


def unquantized(limits: Limits) -> Precision:
    """Return `none`, the precision that every target offers and no quantizer makes."""
    return Precision("none", limits, bytes_a_weight=4, tolerance=1e-4)


class Quantizer(Stage[Made, Made], Generic[Made]):
    """A stage that makes one precision of one target: `converter/quantize/<name>.py` holds it."""

    target: ClassVar[str]
    """The name of the target that offers it."""
    precision: ClassVar[Precision]
    aside: ClassVar[bool] = False
    """`auto` does not try it."""
