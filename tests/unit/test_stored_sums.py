"""Sums of the weights of a sealed file: every row, column and vector counts; rounding of another machine does not."""

from collections.abc import Callable

import numpy as np
import pytest

from converter.errors import PackageDamaged
from converter.package.stored_sums import check_sums, read_sums, sum_tensors, sums_of
from converter.validate.stored import Kind, Stored

RANDOM = np.random.default_rng(0)
WEIGHTS: dict[str, tuple[Kind, tuple[int, ...]]] = {
    "words": ("table", (300, 16)),
    "query": ("product", (16, 24)),
    "bias": ("vector", (24,)),
}
FILE = [Stored(n, k, RANDOM.standard_normal(s).astype(np.float32), 8) for n, (k, s) in WEIGHTS.items()]


def changed(name: str, change: Callable[[np.ndarray], None]) -> list[Stored]:
    made = [Stored(one.name, one.kind, one.values.copy(), one.bits) for one in FILE]
    change(next(one.values for one in made if one.name == name))
    return made


def swap(values: np.ndarray) -> None:
    values[[1, 2]] = values[[2, 1]]


def times(at: tuple[int | slice, ...], factor: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[at] *= factor

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("words", times((217,), -1), "1 of 300 rows of words .* the first is number 217"),
        ("words", swap, "2 of 300 rows of words"),
        ("query", times((slice(None), 5), 1.01), "1 of 24 columns of query .* number 5"),
        ("bias", times((23,), 1.5), "1 of 1 vectors of bias"),
    ],
)
def test_a_row_a_column_or_a_number_that_changed_is_named(
    name: str, change: Callable[[np.ndarray], None], said: str
) -> None:
    with pytest.raises(PackageDamaged, match=said):
        check_sums(sums_of(FILE), changed(name, change))


def test_what_is_as_it_was_passes_and_what_is_missing_does_not() -> None:
    check_sums(sums_of(FILE), FILE)
    check_sums(sums_of(FILE), changed("words", times((slice(None),), 1 + 1e-7)))
    with pytest.raises(PackageDamaged, match="stores 2 weights, where it stored 3"):
        check_sums(sums_of(FILE), FILE[:2])
    with pytest.raises(PackageDamaged, match="words has 299 rows, where it had 300"):
        check_sums(sums_of(FILE), [Stored("words", "table", FILE[0].values[1:], 8), *FILE[1:]])


def test_a_package_that_has_no_sums_is_not_held_to_any() -> None:
    check_sums(sums_of([]), FILE)


def test_sums_are_read_as_they_were_written() -> None:
    made = sums_of(FILE)
    found = read_sums(sum_tensors(made), made.names)
    assert found.names == ("words", "query", "bias")
    check_sums(found, FILE)
    with pytest.raises(ValueError, match="3 weights have 1 names"):
        read_sums(sum_tensors(made), ["words"])
