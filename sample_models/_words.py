"""Invented names, the same on every machine, and which of them training never sees."""

import zlib
from random import Random

_STARTS = "b br c d dr f g gr h j k kr l m n p pr r s st t tr v w z".split()
_VOWELS = "a e i o u".split()
_ENDS = "n r l s m nd rt x th ck".split()


def invented(rng: Random, *, held_out: bool) -> str:
    """Return a pronounceable word of two or three syllables, of the held-out fifth or of the rest."""
    while True:
        syllables = [rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))]
        word = "".join(syllables) + (rng.choice(_ENDS) if rng.random() < 0.5 else "")
        if is_held_out(word) == held_out:
            return word


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 5 == 0
