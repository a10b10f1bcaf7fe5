"""Other answers that say nothing: the source's own outputs are as near to the one answer as to the other.

A span of text is the best of thousands, and the second best is often as good. Where every output of a text is the
source's within half a percent of its range, an other answer is such a tie. Rare ones are rounding; many are a fault.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.examples import Example

if TYPE_CHECKING:
    from converter.precision import Limits
    from converter.task import Judged

CLOSE = 0.005
"""Over the output range: by how much outputs differ at most where an other answer is a tie."""
MOST = 0.03
"""Of all texts, the ties that are taken for the same answer at most."""


def ties_of(same: Sequence[float], errors: Sequence[float], limits: "Limits") -> frozenset[int]:
    """Return which texts have another answer by a tie; none where outputs have no limit of their own, or too many.

    `errors`: the largest of each text, over the output range.
    """
    if limits.max_error is None:
        return frozenset()
    close = min(CLOSE, limits.max_error)
    found = frozenset(i for i, (s, e) in enumerate(zip(same, errors, strict=True)) if s < 1 and e <= close)
    return found if len(found) <= MOST * len(same) else frozenset()


def by_text(judged: "Sequence[Judged]", errors: Sequence[float]) -> list[float]:
    """Return the largest error of each text, over all its windows, in the order in which the texts begin."""
    made: list[float] = []
    places: dict[Example, int] = {}
    for one, error in zip(judged, errors, strict=True):
        text = replace(one.example, window=0)
        if not one.example.window or text not in places:
            places[text] = len(made)
            made.append(error)
        else:
            made[places[text]] = max(made[places[text]], error)
    return made
