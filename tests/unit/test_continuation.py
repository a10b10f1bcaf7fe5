"""Perplexity, agreement of the next token, and where two texts part."""

import numpy as np
import pytest

from converter.scoring.continuation import ROWS, Parting, first_parting, next_token_agreement, perplexity, surprise


def test_perplexity_is_that_of_the_loss_a_model_is_trained_by() -> None:
    import torch
    import torch.nn.functional as F

    random = np.random.default_rng(0)
    logits, ids = random.normal(0, 5, (40, 30)).astype(np.float32), random.integers(0, 30, 40)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(ids))
    halves = [surprise(logits[:10], ids[:10]), surprise(logits[10:], ids[10:])]
    assert perplexity(halves) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    assert perplexity([surprise(np.zeros((7, 30)), np.arange(7))]) == pytest.approx(30)


def test_a_text_longer_than_is_worked_out_at_a_time_is_scored_step_by_step() -> None:
    random = np.random.default_rng(1)
    steps = 2 * ROWS + 3
    logits, ids = random.normal(0, 5, (steps, 12)).astype(np.float32), random.integers(0, 12, steps)
    assert surprise(logits, ids) == pytest.approx(
        [float(surprise(logits[i : i + 1], ids[i : i + 1])[0]) for i in range(steps)], rel=1e-12
    )


def test_scores_beyond_what_exp_takes_are_scored() -> None:
    logits = np.array([[1e4, 0.0], [0.0, -1e4]], dtype=np.float32)
    assert surprise(logits, np.array([0, 1])) == pytest.approx([0, 1e4])


def test_agreement_counts_steps() -> None:
    logits = np.eye(4, 10)
    assert next_token_agreement(logits, logits * 3) == 1
    assert next_token_agreement(logits, np.roll(logits, 1, axis=1)) == 0
    assert next_token_agreement(logits, np.where(np.arange(4)[:, None] < 1, logits, -logits)) == pytest.approx(1 / 4)


def test_nothing_agrees_with_nothing_by_no_number() -> None:
    with pytest.raises(ValueError, match="no steps"):
        next_token_agreement(np.zeros((0, 5)), np.zeros((0, 5)))
    with pytest.raises(ValueError, match="no tokens"):
        perplexity([])


@pytest.mark.parametrize(
    ("found", "parting"),
    [
        ([3, 4, 5], None),
        ([3, 7, 5], Parting(1, 4, 7)),
        ([3, 4], Parting(2, 5, None)),
        ([3, 4, 5, 6], Parting(3, None, 6)),
        ([], Parting(0, 3, None)),
    ],
    ids=str,
)
def test_texts_part_at_their_first_different_token(found: list[int], parting: Parting | None) -> None:
    assert first_parting([3, 4, 5], found) == parting


def test_a_tie_within_rounding_is_told_from_another_answer() -> None:
    logits = np.zeros((1, 10))
    logits[0, :3] = 10, 10 - 5e-4, 9.9
    assert first_parting([0], [1], logits) == Parting(0, 0, 1, tie=True)
    assert first_parting([0], [2], logits) == Parting(0, 0, 2, tie=False)
