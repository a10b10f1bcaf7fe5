"""How units are chosen, without a model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import RecipeError
from converter.prune._magnitude import zero_smallest, zero_smallest_of_rows
from converter.prune.layers import spread
from converter.structured.plan import Budget, choose_units


def scores(widths: tuple[int, ...], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(w) for w in widths]


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=5).map(tuple),
    st.floats(0, 0.95),
    st.integers(1, 16),
    st.sampled_from(["global", "layer"]),
    st.integers(0, 9),
)
def test_every_layer_keeps_its_strongest_and_a_multiple(
    widths: tuple[int, ...], ratio: float, chunk: int, scope: str, seed: int
) -> None:
    budget = Budget(widths, ratio, chunk, scope)  # type: ignore[arg-type]
    values = scores(widths, seed)
    kept = choose_units(budget, values, widths, 1.0)
    for width, value, units in zip(widths, values, kept, strict=True):
        assert units == tuple(sorted(set(units)))
        assert int(value.argmax()) in units
        assert len(units) == width or len(units) % budget.chunk_of(width) == 0
        weakest = min(value[list(units)])
        assert all(value[i] <= weakest for i in set(range(width)) - set(units))


@given(st.integers(2, 6), st.floats(0.05, 0.9), st.integers(0, 9))
def test_the_budget_is_met_to_half_a_chunk(n_layers: int, ratio: float, seed: int) -> None:
    widths = (64,) * n_layers
    for scope in ("global", "layer"):
        kept = choose_units(Budget(widths, ratio, 16, scope), scores(widths, seed), widths, 1.0)  # type: ignore[arg-type]
        left = sum(map(len, kept)) if scope == "global" else len(kept[0])
        before = sum(widths) if scope == "global" else widths[0]
        least = 16 * n_layers if scope == "global" else 16
        assert abs(left - max(before * (1 - ratio), least)) <= 8 + 1e-6


def test_chunks_compete_across_layers_globally_only() -> None:
    weak, strong = np.full(4, 0.1), np.full(4, 1.0)
    assert choose_units(Budget((4, 4), 0.25, 1, "global"), [weak, strong], (4, 4), 1.0) == [(0, 1), (0, 1, 2, 3)]
    assert choose_units(Budget((4, 4), 0.25, 1, "layer"), [weak, strong], (4, 4), 1.0) == [(0, 1, 2), (0, 1, 2)]


def test_half_way_half_the_budget_is_spent() -> None:
    budget = Budget((32,), 0.5, 1, "layer")
    assert len(choose_units(budget, scores((32,), 0), (32,), 0.5)[0]) == 24


def test_a_ratio_that_removes_nothing_says_what_would() -> None:
    with pytest.raises(RecipeError, match="removes nothing") as caught:
        Budget((12, 12), 0.01, 1, "global").refuse_nothing("heads")
    assert "0.042" in caught.value.hint


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 60), st.booleans(), st.integers(0, 9))
def test_the_smallest_go_and_exactly_so_many(rows: list[int], n_gone: int, ties: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    weights = [torch.randn(r, 3, generator=rng) for r in rows]
    if ties:
        weights = [w.sign() * (1 + (w > 1).float()) for w in weights]
    before = [w.clone() for w in weights]
    n_gone = min(n_gone, sum(w.numel() for w in weights))
    zero_smallest(weights, lambda i: before[i].abs(), n_gone)
    gone = torch.cat([(w == 0).flatten() for w in weights])
    sizes = torch.cat([b.abs().flatten() for b in before])
    assert int(gone.sum()) == n_gone
    if 0 < n_gone < len(sizes):
        assert sizes[gone].max() <= sizes[~gone].min()


def test_each_row_loses_as_many() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0], [9.0, 8.0, 7.0]])
    zero_smallest_of_rows(weight, weight.abs(), 2)
    assert weight.tolist() == [[0.0, -3.0, 0.0], [9.0, 0.0, 0.0]]


@given(st.integers(1, 24), st.integers(1, 24))
def test_kept_layers_are_spread_from_first_to_last(n_kept: int, n_layers: int) -> None:
    kept = spread(n_kept, n_layers)
    assert len(kept) == min(n_kept, n_layers)
    assert list(kept) == sorted(set(kept))
    assert kept[0] == 0
    assert len(kept) == 1 or kept[-1] == n_layers - 1
