"""What the weights of a sealed file add up to: every row of its tables and every column of its matrices.

The answers that a package holds are of some thousand tokens: of a word that is in none of them, `verify` would not
see that its row is another one. So each row of a table, each column of a matrix and each vector has a number here, its
sum with fixed random weights, as the shipped file gives it when it is read and brought back to float.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.validate.stored import Stored

HEAD = "stored."
ROOM = 1e-5
"""What a sum may change, over the largest one: nothing is computed but the sum, which machines round unlike."""


@dataclass(frozen=True)
class StoredSums:
    """Sums `[rows]`, `[columns]` or `[1]` by kind and number of a weight, in the order in which the file is read."""

    sums: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """How the file calls each."""


def sums_of(stored: "Iterable[Stored]") -> StoredSums:
    """Add up what a file stores, one weight at a time."""
    sums, names = {}, []
    for i, one in enumerate(s for s in stored if s.kind != "bias"):
        values = one.values if one.kind == "table" else one.values.T if one.kind == "product" else one.values[None]
        drawn = np.random.default_rng(values.shape[1]).standard_normal((values.shape[1],))
        weights = np.asarray(drawn, dtype=np.float32)
        sums[f"{i:04d}.{one.kind}"] = np.asarray(values @ weights, dtype=np.float32)
        names.append(one.name)
    return StoredSums(sums, tuple(names))


def check_sums(recorded: StoredSums, stored: "Iterable[Stored]") -> None:
    """Compare what a file stores now with what it stored when it was sealed.

    Raises:
        PackageDamaged: names the weight, and how many of its rows or columns are others.

    """
    if not recorded.sums:
        return
    found = sums_of(stored)
    if found.sums.keys() != recorded.sums.keys():
        raise PackageDamaged(
            f"the file stores {len(found.sums)} weights, where it stored {len(recorded.sums)} when it was sealed",
            hint="the model is another one",
        )
    for name, (key, before) in zip(recorded.names, recorded.sums.items(), strict=True):
        now = found.sums[key]
        kind = {"table": "rows", "product": "columns"}.get(key.partition(".")[2], "vectors")
        if now.shape != before.shape:
            raise PackageDamaged(f"{name} has {len(now)} {kind}, where it had {len(before)} when it was sealed")
        off = ~(np.abs(now - before) <= ROOM * max(float(np.abs(before).max(initial=0)), 1e-30))
        if off.any():
            raise PackageDamaged(
                f"{int(off.sum())} of {len(now)} {kind} of {name} are not those that it was sealed with, the first is "
                f"number {int(off.argmax())}",
                hint="the model is another one",
            )


def sum_tensors(made: StoredSums) -> "dict[str, NDArray[Any]]":
    """Return what `read_sums` reads, by name."""
    return {HEAD + key: np.ascontiguousarray(v) for key, v in made.sums.items()}


def read_sums(tensors: "Mapping[str, NDArray[Any]]", names: Iterable[Any]) -> StoredSums:
    """Read sums; none where there are none.

    Raises:
        ValueError: there are not as many names.

    """
    sums = {k.removeprefix(HEAD): v for k, v in sorted(tensors.items()) if k.startswith(HEAD)}
    made = StoredSums(sums, tuple(str(name) for name in names))
    if len(made.names) != len(sums):
        raise ValueError(f"{len(sums)} weights have {len(made.names)} names")
    return made
