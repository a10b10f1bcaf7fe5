"""Movement pruning: what training moves toward zero goes, and the model opens again as any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.binding import bind
from converter.errors import RecipeError, UsageError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.prune._movement import ScoredLinear, _rank
from converter.prune.movement import MovementPruning
from converter.prune.threshold import ThresholdPruning, encoder_linears
from converter.reference import encode_probes, feed_of, torch_run
from converter.stage import Context, run_stage
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)


def test_scores_rise_where_training_moves_a_weight_away_from_zero_through_zeros_too() -> None:
    layer = ScoredLinear(torch.nn.Linear(4, 3))
    layer.stays[0, 0] = 0
    given = torch.randn(5, 4)
    layer(given).square().sum().backward()
    held = (layer.weight * layer.stays).detach().requires_grad_()
    torch.nn.functional.linear(given, held, layer.bias.detach()).square().sum().backward()
    assert held.grad is not None
    torch.testing.assert_close(layer.scores.grad, held.grad * layer.weight.detach())
    torch.testing.assert_close(layer.weight.grad, held.grad * layer.stays)
    assert layer.scores.grad is not None
    assert layer.scores.grad[0, 0] != 0  # it may come back


def test_a_weight_comes_back_when_its_score_rises() -> None:
    layer = ScoredLinear(torch.nn.Linear(4, 4))
    ranking = ThresholdPruning(0.5, steps=2)
    _rank({"layer": layer}, ranking, 2)
    gone = (layer.stays == 0).nonzero()[0].tolist()
    layer.scores.data[*gone] = 9.0
    _rank({"layer": layer}, ranking, 2)
    assert layer.stays[*gone] == 1
    assert int((layer.stays == 0).sum()) == 8


@pytest.mark.parametrize("options", [{"sparsity": 0.6}, {"pattern": "2:4"}, {"sparsity": 0.5, "scope": "global"}])
def test_zeros_are_as_many_as_asked_for_and_the_model_opens_again(
    options: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    before = {n: m.weight.detach().clone() for n, m in encoder_linears(source).items()}
    table = {"cuts": 3, "steps": 12, "batch_size": 8, "learning_rate": 2e-3} | options
    stage = bind(MovementPruning, table, "test")
    made, record = run_stage(stage, source, Context(tmp_path, calibration=PLAIN, teacher=source))
    assert record.facts["sparsity"] == pytest.approx(stage.ranking.share, abs=0.001)
    assert record.facts["steps"] == 12
    assert record.facts["last_loss"] < 10
    assert {type(m) for m in encoder_linears(made).values()} == {torch.nn.Linear}
    assert any(
        not torch.equal(m.weight[m.weight != 0], before[n][m.weight != 0]) for n, m in encoder_linears(made).items()
    )
    assert all(torch.equal(m.weight, before[n]) for n, m in encoder_linears(source).items())
    save_model(made, tmp_path / "saved")
    encodings = [p.encoding for p in encode_probes(source, PLAIN[:3])]
    first, again = (torch_run(m)(MODEL, feed_of(m, encodings)) for m in (made, load_source(str(tmp_path / "saved"))))
    assert all((first[n] == again[n]).all() for n in first)


def test_what_cannot_work_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sets 0\.5 of the weights"):
        bind(MovementPruning, {"pattern": "2:4", "sparsity": 0.9}, "test")
    source = load_source(str(tiny()))
    with pytest.raises(RecipeError, match="does not divide"):
        bind(MovementPruning, {"pattern": "3x1"}, "test").check(source, has_text=True)
    with pytest.raises(UsageError, match="no loss to train on"):
        bind(MovementPruning, {"soft_weight": 0, "hidden_weight": 0}, "test").run(
            source, Context(tmp_path, calibration=PLAIN, teacher=source)
        )
