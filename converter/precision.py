"""What a precision is: one record, kept by the quantizer that makes it, and how far a package of it may be off."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic

from converter.binding import bind, option, unbind
from converter.errors import RecipeError
from converter.stage import Made, Stage

MOST_BARE = 0.2
"""A larger bare number is nobody's limit of a drop: it is points, and would be read as a hundred times as much."""


def points(value: Any, where: str) -> Any:
    """Return a drop as the metric counts it: `0.5pt` is half a percentage point, 0.005.

    >>> points("0.5pt", "max_drop"), points("0.005", "max_drop")
    (0.005, 0.005)

    Raises:
        RecipeError: a bare number above `MOST_BARE`; the two ways to say what may be meant are named.

    """
    typed = isinstance(value, str) and value.strip().lower().endswith("pt")
    text = str(value).strip()[:-2].strip() if typed else value
    try:
        number = float(text)
    except (TypeError, ValueError):
        raise RecipeError(
            f"wanted a drop, found {value!r}", where=where, hint="0.5pt, or 0.005: half a percentage point"
        ) from None
    if typed:
        return float(Decimal(str(text)) / 100) if math.isfinite(number) else number
    if number > MOST_BARE and math.isfinite(number):
        raise RecipeError(
            f"{number:g} would be {number * 100:g} percentage points of the metric",
            where=where,
            hint=f"write {number:g}pt, or {number / 100:g}, for {number:g} percentage points; {number * 100:g}pt if "
            "that many are meant",
        )
    return number


def points_text(drop: float) -> float | str:
    """Return a drop as `points` reads it back."""
    return drop if drop <= MOST_BARE else f"{Decimal(str(drop)) * 100:f}pt"


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
        None,
        "largest allowed drop of the task's metric against the source (0.5pt or 0.005: half a percentage point)",
        low=0.0,
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


def bound_limits(table: Mapping[str, Any], where: str) -> Limits:
    """Bind limits; a limit may be weakened, which the manifest then says, but not lifted.

    Raises:
        RecipeError: names the key and what was found.

    """
    for key, value in table.items():
        if value is None or str(value).lower() == "none":
            raise RecipeError(
                "a limit is a number",
                where=f"{where}.{key}",
                hint="leave it out to keep the default limit of the target",
            )
    made = {key.replace("-", "_"): value for key, value in table.items()}
    if "max_drop" in made:
        made["max_drop"] = points(made["max_drop"], f"{where}.max_drop")
    return bind(Limits, made, where)


def limits_table(limits: Limits) -> dict[str, Any]:
    """Return limits as a plain table that `bound_limits` reads back."""
    made = unbind(limits)
    return made | ({"max_drop": points_text(made["max_drop"])} if "max_drop" in made else {})


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
    gentler: ClassVar[tuple[str, ...]] = ()
    """What may repair a package of it, as typed behind `--quantize`, the smallest change first."""
    leaves_vectors: ClassVar[bool] = False
    """Biases and normalizations are afterwards as they were: nothing is folded into them, or corrected."""
    aside: ClassVar[bool] = False
    """`auto` does not try it."""
