"""What pruning of single weights is made of, without a model."""

from typing import Any

import numpy as np
import pytest
import torch

from converter.binding import bind
from converter.errors import RecipeError
from converter.prune._compensate import pruned_in_steps
from converter.prune._mask import own_least
from converter.prune._pattern import parse_pattern
from converter.prune._refit import distance, refit_kept
from converter.prune.threshold import ThresholdPruning


def problem(n_out: int = 8, n_in: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and the second moments of inputs that hang together."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(200, n_in, generator=rng) @ torch.randn(n_in, n_in, generator=rng)
    matrix = (x.T @ x).double() / len(x)
    return torch.randn(n_out, n_in, generator=rng).double(), matrix + 0.01 * matrix.diagonal().mean() * torch.eye(n_in)


def only_zeroed(weight: torch.Tensor, matrix: torch.Tensor, stage: ThresholdPruning) -> torch.Tensor:
    score = (weight.abs() * matrix.diagonal().sqrt()).float()
    return weight.masked_fill(own_least(score, stage.groups, stage.share, by_row=stage.scope == "row"), 0.0)


def stage_of(pattern: str, **options: Any) -> ThresholdPruning:
    return bind(ThresholdPruning, {"score": "obs", "pattern": pattern} | options, "test")


@pytest.mark.parametrize("text", ["", "2:4", "4:8", "1:4", "1x4", "4x1", "2x2"])
def test_a_pattern_removes_exactly_its_share_and_nothing_across_its_groups(text: str) -> None:
    weight, matrix = problem()
    stage = stage_of(text)
    pattern = stage.groups
    for made in (only_zeroed(weight, matrix, stage), pruned_in_steps(weight, matrix, stage)):
        gone = made == 0
        assert int(gone.sum()) == round(stage.share * gone.numel())
        if pattern.of:
            groups = gone.reshape(len(gone), -1, pattern.of).sum(2)
            assert (groups == pattern.of - pattern.keep).all()
        else:
            blocks = gone.reshape(8 // pattern.rows, pattern.rows, 24 // pattern.columns, pattern.columns).sum((1, 3))
            assert set(blocks.unique().tolist()) == {0, pattern.rows * pattern.columns}


def test_rows_that_compete_alone_lose_alike_and_together_they_do_not() -> None:
    weight, matrix = problem()
    weight[0] *= 0.01
    alone, together = (pruned_in_steps(weight, matrix, stage_of("", scope=s)) == 0 for s in ("row", "layer"))
    assert alone.sum(1).unique().tolist() == [12]
    assert int(together[0].sum()) > 12


@pytest.mark.parametrize("text", ["", "2:4", "1x4", "4x1"])
@pytest.mark.parametrize("score", ["wanda", "obs"])
def test_a_fit_loses_less_than_zeros_alone_and_ranking_anew_less_still(text: str, score: str) -> None:
    lost = np.zeros(3)
    for seed in range(4):
        weight, matrix = problem(seed=seed)
        options = {"score": score, "reconstruct": True}
        once, often = (stage_of(text, steps=n, **options) for n in (1, 8))
        ways = [only_zeroed(weight, matrix, once), *(pruned_in_steps(weight, matrix, s) for s in (once, often))]
        lost += [distance(made, weight, matrix) for made in ways]
    assert lost[1] < 0.7 * lost[0]
    assert lost[2] < 0.98 * lost[1]


def test_fitted_weights_are_those_of_least_squares_and_zeros_stay() -> None:
    weight, matrix = problem()
    start = only_zeroed(weight, matrix, stage_of(""))
    made = refit_kept(start, weight, matrix)
    for row, (kept, wanted) in enumerate(zip(start != 0, weight, strict=True)):
        exact = torch.linalg.solve(matrix[kept][:, kept], matrix[kept] @ wanted)
        np.testing.assert_allclose(made[row, kept], exact, atol=1e-3 * float(exact.abs().max()))
        assert (made[row, ~kept] == 0).all()


def test_one_weight_of_a_pair_that_says_the_same_hands_over_to_the_other() -> None:
    """Two inputs that are one: what is left of each row is the sum of its two weights."""
    matrix = torch.ones(2, 2).double() + 1e-9 * torch.eye(2)
    weight = torch.tensor([[1.0, 3.0], [2.0, 0.5]]).double()
    made = pruned_in_steps(weight, matrix, stage_of("1:2"))
    assert made.sum(1).tolist() == pytest.approx(weight.sum(1).tolist())
    assert ((made == 0).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [("0:4", "everything"), ("4:4", "nothing"), ("5:4", "nothing"), ("0x4", "no weights"), ("2/4", "not a pattern")],
)
def test_patterns_that_say_nothing_are_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_pattern(text, "test")


@pytest.mark.parametrize(
    ("text", "fits"), [("2:4", True), ("4:8", True), ("1:5", False), ("3x1", False), ("1x16", False)]
)
def test_a_pattern_must_divide_the_matrix(text: str, fits: bool) -> None:
    pattern = parse_pattern(text, "test")
    if fits:
        pattern.refuse_misfit("query", (8, 24))
    else:
        with pytest.raises(RecipeError, match=f"{text} does not divide query, which is 8 x 24"):
            pattern.refuse_misfit("query", (8, 24))
