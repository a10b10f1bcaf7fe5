"""What pruning to a budget is made of, without a model."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.structured.costs import CostTable
from converter.structured.input_correction import Reader, correct_inputs
from converter.structured.least_squares import Moments, refit
from converter.structured.order import Removal, order_removal
from converter.structured.shrink import choose_shapes
from converter.structured.streams import Sublayer
from converter.structured.widths import STEPS, Choice, choose_widths


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999))
def test_widths_lose_least_within_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [[Choice(i, float(c), float(v)) for i, (c, v) in enumerate(rng.random((4, 2)))] for _ in range(3)]
    budget = float(rng.uniform(0.2, 2.5))
    picks = choose_widths(rows, budget)
    fitting = [p for p in itertools.product(range(4), repeat=3) if _sum(rows, p, "cost") <= budget]
    assert (picks is None) == (not fitting)
    if picks is None:
        return
    assert _sum(rows, picks, "cost") <= budget
    # Costs are rounded up to the grid: whoever leaves room for that must not be better.
    roomy = [p for p in fitting if _sum(rows, p, "cost") <= budget * (1 - 3 / STEPS)]
    assert all(_sum(rows, picks, "loss") <= _sum(rows, p, "loss") + 1e-12 for p in roomy)


def _sum(rows: list[list[Choice]], picks: "list[int] | tuple[int, ...]", what: str) -> float:
    return float(sum(getattr(row[p], what) for row, p in zip(rows, picks, strict=True)))


@pytest.mark.parametrize("width", [1, 3])
def test_a_removal_costs_what_least_squares_cannot_mend(width: int) -> None:
    rng = torch.Generator().manual_seed(width)
    x = torch.randn(80, 12, generator=rng, dtype=torch.float64) @ torch.randn(12, 12, generator=rng).double()
    y = x @ torch.randn(12, 5, generator=rng).double()
    weight = torch.linalg.lstsq(x, y).solution
    found = order_removal(x.T @ x, weight, torch.eye(5, dtype=torch.float64), width)
    assert sorted(found.order) == list(range(12 // width))
    assert found.unit_costs().sum() == pytest.approx(found.cost_of(0))
    for kept in range(12 // width):
        columns = [unit * width + i for unit in found.kept(kept) for i in range(width)]
        left = y - x[:, columns] @ torch.linalg.lstsq(x[:, columns], y).solution if columns else y
        assert found.cost_of(kept) == pytest.approx(float(left.square().sum()), rel=1e-6)


def test_outputs_that_do_not_matter_cost_nothing() -> None:
    matrix, weight = torch.eye(2, dtype=torch.float64), torch.tensor([[9.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert order_removal(matrix.clone(), weight, torch.eye(2, dtype=torch.float64), 1).order == (1, 0)
    assert order_removal(matrix.clone(), weight, torch.diag(torch.tensor([0.0, 1.0])).double(), 1).order == (0, 1)


def linear_and_moments(*, lacking: float = 0.0, outlier: float = 0.0) -> tuple[torch.nn.Linear, Moments, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(6, 4)
    wanted = torch.randn(6, 4, generator=rng)
    moments = Moments(6, 4)
    for _ in range(3):
        x = torch.randn(50, 6, generator=rng)
        moments.add(x, lacking * (x @ wanted + 0.5), torch.ones(50))
        moments.add(x[:1], torch.full((1, 4), outlier), torch.zeros(1))
    return linear, moments, wanted


def test_what_lacks_nothing_keeps_its_weights_to_the_last_bit() -> None:
    linear, moments, _ = linear_and_moments(outlier=99.0)  # a token without weight says nothing
    before = linear.weight.clone(), linear.bias.clone()
    refit(linear, moments, 0.01, bias=True)
    assert torch.equal(linear.weight, before[0])
    assert torch.equal(linear.bias, before[1])


def test_weights_take_over_what_lacks_and_a_ridge_holds_them_back() -> None:
    loose, moments, wanted = linear_and_moments(lacking=1.0)
    before = loose.weight.detach().clone()
    bias = loose.bias.detach().clone()
    refit(loose, moments, 1e-9, bias=True)
    assert torch.allclose(loose.weight - before, wanted.T, atol=1e-4)
    assert torch.allclose(loose.bias - bias, torch.full((4,), 0.5), atol=1e-4)
    tight, moments, _ = linear_and_moments(lacking=1.0)
    before = tight.weight.detach().clone()
    refit(tight, moments, 1e9, bias=True)
    assert torch.allclose(tight.weight, before, atol=1e-6)


@pytest.mark.parametrize("biased", [True, False])
def test_what_reads_a_turned_stream_answers_as_before(*, biased: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(6, 4, bias=biased)
    whole = torch.randn(200, 6, generator=rng)
    turned = whole @ (torch.eye(6) + 0.3 * torch.randn(6, 6, generator=rng)) + (1.0 if biased else 0.0)
    wanted = linear(whole).detach()
    weight, bias = (p.detach().double().clone() if p is not None else None for p in (linear.weight, linear.bias))
    assert weight is not None
    reader = Reader(linear, weight, bias)
    moments = Moments(6, 6)
    moments.add(turned, whole - turned, torch.ones(200))
    for _ in range(2):  # twice is once
        correct_inputs([reader], moments, 1e-9)
        assert torch.allclose(linear(turned), wanted, atol=1e-4)
    correct_inputs([reader], moments, 1e9)
    assert torch.allclose(linear.weight.double(), reader.weight, atol=1e-5)


def test_the_last_head_is_paid_for_from_the_budget() -> None:
    """Heads are worth nothing here: one stays all the same, and the neurons make room for it."""
    worthless, worthy = Removal((1, 0), np.zeros(3)), Removal((1, 0), np.array([0.0, 1.0, 5.0]))
    removals = {
        sublayer: worthless if sublayer.kind == "attention" else worthy
        for sublayer in (Sublayer(0, "attention"), Sublayer(0, "ffn"), Sublayer(1, "attention"), Sublayer(1, "ffn"))
    }
    table = CostTable("ms", 1.0, ((0, 0.0), (2, 2.0)), ((0, 0.0), (2, 2.0)), {})
    shapes, missed = choose_shapes(removals, table, 4.01, 1)
    widths = [(len(s.heads), len(s.neurons)) for s in shapes]
    assert not missed
    assert sum(h for h, _ in widths) == 1
    assert table.total(widths) <= 4.01
    assert sum(n for _, n in widths) == 2
    least, missed = choose_shapes(removals, table, 1.5, 1)
    assert missed
    assert sorted((len(s.heads), len(s.neurons)) for s in least) == [(0, 0), (1, 0)]
