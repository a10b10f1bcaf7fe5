"""What a precision is: one record, kept by the quantizer that makes it."""

from dataclasses import dataclass
from typing import ClassVar, Generic

from converter.limits import Limits
from converter.stage import Made, Stage


@dataclass(frozen=True)
class Precision:
    """One entry of a target's menu: all that anyone must know of it."""

    name: str
    """As it is typed behind `--quantize`."""
    limits: Limits
    """How far a package of it may be from its source, where the recipe says nothing else."""
    bytes_a_weight: int = 1
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
