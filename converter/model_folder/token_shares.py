"""How many tokens of a text a layer keeps, and what ranks them; without torch, so that recipes are read at once."""

from typing import Literal

Score = Literal["attention", "values", "first"]
"""By what tokens are ranked: the attention that all give, times the size of what is read there, or the first's."""
WHOLE = 1000
"""Shares are whole thousandths: the count of tokens is then exact in every runtime."""


def left_of(length: int, share: int) -> int:
    """Return how many of `length` tokens a layer keeps that keeps `share` thousandths."""
    return (length * share + WHOLE - 1) // WHOLE
