"""Unicode's normal forms as tables: full decompositions, the order of marks, and which pairs compose."""

from functools import cache
from typing import Any

from converter.device.tokenizer.characters import HANGUL, letters, points, replaced_by, spans
from converter.device.tokenizer.form import Row, Step, points_text, spans_text

BASE = "a"
FIRST, LAST_MARK = "\u0334", "\u0345"
"""The marks of the lowest and of the highest combining class."""


def form_step(name: str) -> Step:
    """Return the step of `NFC`, `NFD`, `NFKC` or `NFKD`."""
    return (
        ("normalize", "form", str(int(name.endswith("C")))),
        *_order_rows(),
        *_maps("NFKD" if "K" in name else "NFD"),
        *_pairs(name),
    )


@cache
def _normalizer(name: str) -> Any:
    from tokenizers import normalizers

    return getattr(normalizers, name)().normalize_str


@cache
def _maps(decomposition: str) -> tuple[Row, ...]:
    made = replaced_by(_normalizer(decomposition))
    return tuple(("map", f"{c:x}", points_text(to)) for c, to in made.items() if to != _syllable(c))


def _syllable(c: int) -> tuple[int, ...]:
    return letters(c) if c in HANGUL else ()


@cache
def _order_rows() -> tuple[Row, ...]:
    """Return the marks by their combining class, each class as a rank: only their order matters."""
    decompose = _normalizer("NFD")
    marks = [c for c in points() if _is_mark(decompose, chr(c))]
    known: list[str] = [FIRST]
    for c in marks:
        if all(_before(decompose, k, chr(c)) or _before(decompose, chr(c), k) for k in known):
            known.append(chr(c))
    ranks: dict[int, list[int]] = {}
    for c in marks:
        ranks.setdefault(1 + sum(_before(decompose, k, chr(c)) for k in known), []).append(c)
    return tuple(("order", str(rank), spans_text(spans(held))) for rank, held in sorted(ranks.items()))


def _is_mark(decompose: Any, mark: str) -> bool:
    """Whether a character moves before the last of all marks, or behind the first."""
    if decompose(mark) != mark:
        return False
    return bool(_before(decompose, mark, LAST_MARK) or _before(decompose, FIRST, mark))


def _before(decompose: Any, one: str, other: str) -> bool:
    """Whether a mark has a lower class than another: they change places where they stand the wrong way round."""
    return one != other and bool(decompose(BASE + other + one) == BASE + one + other)


def _pairs(name: str) -> tuple[Row, ...]:
    if not name.endswith("C"):
        return ()
    return _composed()


@cache
def _composed() -> tuple[Row, ...]:
    compose, decompose = _normalizer("NFC"), _normalizer("NFD")
    made = []
    for c in points():
        full = decompose(chr(c))
        if len(full) < 2 or c in HANGUL or compose(full) != chr(c):
            continue
        head = compose(full[:-1])
        if len(head) == 1 and compose(head + full[-1]) == chr(c):
            made.append(f"{ord(head):x},{ord(full[-1]):x},{c:x}")
    return (("compose", " ".join(made)),)
