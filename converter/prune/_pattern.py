"""Which weights leave together: single ones, blocks of a matrix, or so many of each group of neighbouring inputs."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.errors import RecipeError

if TYPE_CHECKING:
    import torch

HINT = "2:4 keeps 2 of every 4 neighbouring inputs; 1x4 removes blocks of 1 output by 4 inputs"


@dataclass(frozen=True)
class Pattern:
    """`keep` of `of` neighbouring inputs stay in every row (N:M); or, with `of` 0, blocks go as a whole."""

    rows: int = 1
    columns: int = 1
    keep: int = 0
    of: int = 0

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}" if self.of else f"{self.rows}x{self.columns}"

    @property
    def span(self) -> int:
        """Neighbouring inputs that are decided on together."""
        return self.of or self.columns

    @property
    def share(self) -> float | None:
        """Share of the weights that N:M removes; None where the recipe says it."""
        return 1 - self.keep / self.of if self.of else None

    def refuse_misfit(self, name: str, shape: "tuple[int, ...]") -> None:
        """Raise where the pattern does not divide a matrix `[out, in]`."""
        n_out, n_in = shape
        if n_out % self.rows or n_in % self.span:
            raise RecipeError(
                f"the pattern {self} does not divide {name}, which is {n_out} x {n_in}", where="prune.threshold.pattern"
            )

    def pooled(self, scores: "torch.Tensor") -> "torch.Tensor":
        """Return the scores of blocks `[out / rows, in / columns]`: the norm of those of their weights."""
        if self.rows == self.columns == 1:
            return scores
        n_out, n_in = scores.shape
        blocks = scores.reshape(n_out // self.rows, self.rows, n_in // self.columns, self.columns)
        return blocks.square().sum((1, 3)).sqrt()

    def spread(self, chosen: "torch.Tensor") -> "torch.Tensor":
        """Return the weights of the chosen blocks, the opposite of `pooled`."""
        if self.rows == self.columns == 1:
            return chosen
        return chosen.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def least_of_groups(self, scores: "torch.Tensor", n_gone: int) -> "torch.Tensor":
        """Return which weights go where each group of neighbours loses `n_gone`: those of least score."""
        groups = scores.reshape(len(scores), -1, self.of)
        order = groups.argsort(dim=2, stable=True)[:, :, :n_gone]
        return groups.new_zeros(groups.shape).bool().scatter_(2, order, value=True).reshape(scores.shape)


def parse_pattern(text: str, where: str) -> Pattern:
    """Return what `2:4` or `1x4` says; `""` and `1x1` are single weights.

    >>> str(parse_pattern("2:4", "")), parse_pattern("4x1", "").rows
    ('2:4', 4)
    """
    if not text:
        return Pattern()
    found = re.fullmatch(r"(\d{1,4})([:x])(\d{1,4})", text.strip().lower())
    if found is None:
        raise RecipeError(f"{text!r} is not a pattern", where=where, hint=HINT)
    first, second = int(found[1]), int(found[3])
    if found[2] == "x":
        if not first or not second:
            raise RecipeError(f"a block of {text} has no weights", where=where, hint=HINT)
        return Pattern(first, second)
    if not 0 < first < second:
        says = "removes everything" if first == 0 else "removes nothing"
        raise RecipeError(f"{text} {says}", where=where, hint=HINT)
    return Pattern(keep=first, of=second)
