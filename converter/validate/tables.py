"""Embedding rows of a shipped file beside the source's, every row: most words stand in no text that is tried."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.resources import PagesRead
from converter.validate.stored import as_float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.stored import Stored

ROOM = 0.75
"""Of a step: rounding costs half of one."""
FLOAT_ROOM = {16: 1.5e-3, 32: 1e-5}
"""What a value of a float table may be off, over the largest of its row."""
FOUR_BIT_ROOM = 0.75
"""What a row in four bits may be off, over its length: the largest values are clipped. Of another row it is 1.4."""
BLOCK_ROOM = {8: ROOM, 4: 2.5}
"""Of a step of a block with a scale of its own; in four bits the largest values of a block are clipped."""
PIECE = 1 << 22
"""Values that are compared at a time."""
PAGES = 1 << 25
"""Bytes of a mapped table that are in memory at most: it lies there beside the stored one in float32."""
SHARE = 0.5
"""Rows that must be right for a table of another size to be taken for the same one."""
FIRST_ROWS = (0, 1, 2)
"""Where a table of positions may begin: behind the rows of padding."""


@dataclass(frozen=True)
class TableFound:
    """How a table of the source stands in the file."""

    source: str
    stored: str | None
    """None: the file has none that is like it."""
    wrong: tuple[int, ...] = ()
    """Rows, numbered as in the source."""
    rows: int = 0
    """That were compared."""

    @property
    def share_wrong(self) -> float:
        return len(self.wrong) / max(1, self.rows)

    @property
    def is_like(self) -> bool:
        """It is that table, with some wrong rows, and no other one."""
        return self.share_wrong <= SHARE


def compared_rows(one: "Stored", source: "Mapping[str, NDArray[Any]]") -> Iterator[TableFound]:
    """Compare a stored table with every table of the source that it could be."""
    rows, width = one.values.shape
    for name, wanted in source.items():
        if width != wanted.shape[1] or rows > len(wanted):
            continue
        for first in FIRST_ROWS if rows < len(wanted) else (0,):
            part = wanted[first : first + rows]
            if len(part) == rows:
                wrong = np.flatnonzero(~_within(one, part))
                yield TableFound(name, one.name, tuple((wrong + first).tolist()), rows)


def likely_tables(
    stored: "Sequence[Sequence[TableFound]]", source: "Mapping[str, NDArray[Any]]"
) -> Iterator[TableFound]:
    """Return, for each table of the source, the stored one that is it: with the fewest wrong rows.

    `stored` are what each of them was compared with.
    """
    found = [f for own in stored for f in own]
    for name, wanted in source.items():
        own = [f for f in found if f.source == name]
        likely = min(own, key=lambda f: f.share_wrong, default=None)
        same_size = [f for f in own if f.rows == len(wanted)]
        if likely is not None and likely.is_like:
            yield likely
        elif len(same_size) >= sum(other.shape == wanted.shape for other in source.values()):
            yield min(same_size, key=lambda f: len(f.wrong))
        elif spare := [f for one in stored for f in one if f in same_size and all(o.wrong for o in one)]:
            yield min(spare, key=lambda f: len(f.wrong))
        else:
            # The exporter may have computed what is looked up, as that of positions that are always the same.
            yield TableFound(name, None)


def wrong_copies(
    stored: "Iterable[Sequence[TableFound]]", source: "Mapping[str, NDArray[Any]]"
) -> Iterator[TableFound]:
    """Yield stored tables that are like one of the source, and equal none of them: a file may hold the same one twice.

    `stored` are what each of them was compared with.
    """
    for own in stored:
        best = min(own, key=lambda f: f.share_wrong, default=None)
        if best is not None and best.wrong and (best.is_like or best.rows == len(source[best.source])):
            yield best


def _within(one: "Stored", wanted: "NDArray[Any]") -> "NDArray[np.bool_]":
    """Tell of each row whether it is the wanted one within what its precision allows."""
    step = max(1, PIECE // max(1, wanted.shape[1]))
    places = range(0, len(wanted), step)
    most, made, pages = 0.0, [], PagesRead(PAGES)
    for i in places:
        most = max(most, float(np.abs(as_float32(wanted[i : i + step])).max()))
        pages.add(wanted[i : i + step].nbytes)
    for i in places:
        made.append(_rows_within(one, one.values[i : i + step], as_float32(wanted[i : i + step]), most))
        pages.add(wanted[i : i + step].nbytes)
    return np.concatenate(made) if made else np.zeros(0, dtype=bool)


def _rows_within(
    one: "Stored", found: "NDArray[np.float32]", wanted: "NDArray[np.float32]", most: float
) -> "NDArray[np.bool_]":
    """Do so for some rows; `most` is the largest value of the whole table."""
    largest = np.abs(wanted).max(axis=1)
    off = np.abs(found - wanted)
    if one.bits in FLOAT_ROOM:
        return np.asarray(off.max(axis=1) <= FLOAT_ROOM[one.bits] * largest + 1e-6)
    if one.block and wanted.shape[1] % one.block == 0:
        size, off = (np.abs(a).reshape(len(a), -1, one.block).max(axis=2) for a in (wanted, off))
        return np.asarray((off <= BLOCK_ROOM[one.bits] * size / (2 ** (one.bits - 1) - 1) + 1e-6).all(axis=1))
    if one.bits == 4:
        allowed = FOUR_BIT_ROOM * np.linalg.norm(wanted, axis=1) + 1e-6
        return np.asarray(np.linalg.norm(off, axis=1) <= allowed)
    # The scales of rows are rounded up to multiples of one unit.
    step = largest / 127 + most / 127**2
    return np.asarray(off.max(axis=1) <= ROOM * step + 1e-6)
