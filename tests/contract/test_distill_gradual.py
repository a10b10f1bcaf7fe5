"""What gradual pruning promises: it ends at its budget, its cuts are a decision that can be read and gone on from."""

import doctest
from dataclasses import replace
from itertools import pairwise

import pytest

from converter.artifact import TorchModel
from converter.distill import _gradual
from converter.distill._gradual import cubic_cuts
from converter.distill.gradual import GradualPruning
from converter.errors import DataError, RecipeError
from converter.forecast import forecast_of
from converter.recipe import bind_recipe
from converter.stage import Context, run_stage
from tests.distilling import QUICK, TEXTS, Watching, digest, distance


@pytest.fixture
def stage() -> GradualPruning:
    return GradualPruning(size_mb=0.03, cuts=2, epochs=4, checkpoint_seconds=0.0, **QUICK)


def test_cuts_fall_steeply_first_and_end_at_the_budget() -> None:
    assert doctest.testmod(_gradual).failed == 0
    cuts = cubic_cuts(10.0, 2.0, 5, 0.4)
    falls = [a.allowed - b.allowed for a, b in pairwise(cuts)]
    assert falls == sorted(falls, reverse=True)
    assert (cuts[0].at, cuts[-1].at, cuts[-1].allowed) == (0.0, 0.4, 2.0)


def test_a_model_is_cut_in_turns_and_ends_within_its_budget(
    stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    before = digest(source)
    made, record = run_stage(stage, source, ctx)
    facts = record.facts
    assert facts["budget"]["found"] <= stage.size_mb
    assert "budget_missed" not in facts
    assert facts["steps"] == 12
    assert [at for at, _ in facts["cuts"]] == [0.0, 0.4]
    assert made.shape_map is not None
    kept = [(len(s.heads), len(s.neurons)) for s in made.shape_map.layers]
    assert [(len(p["heads_kept"]), p["neurons_kept"]) for p in facts["plan"]] == kept
    assert facts["parameters_after"] < facts["parameters_before"]
    assert digest(source) == before
    assert [path.name for path in ctx.work.iterdir()] == ["resume"]


def test_a_forecast_of_the_training_counts_what_each_cut_leaves_of_the_model(
    stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    now, whole = forecast_of(source), stage.passes(len(ctx.calibration))

    def training(size_mb: float) -> float:
        one = replace(stage, size_mb=size_mb)
        return one.forecast(now, source, ctx).passes - one.pruning().forecast(now, source, ctx).passes

    assert whole / 4 < training(0.022) < training(0.03) < whole  # a quarter: the teacher's own


def test_what_is_left_learns_between_and_after_the_cuts(
    stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    # So much goes that least squares leave something to learn, in steps small enough to learn it.
    stage = replace(stage, size_mb=0.022, learning_rate=3e-4)
    longer = replace(stage, epochs=12).run(source, replace(ctx, resume=None))
    shortest = replace(stage, steps=2).run(source, replace(ctx, resume=None))
    assert longer.facts["last_parts"]["soft"] < 0.5 * shortest.facts["first_parts"]["soft"]
    assert distance(longer.made, source) < 0.7 * distance(shortest.made, source)


@pytest.mark.parametrize("step", [2, 7])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    step: int, stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    whole = stage.run(source, replace(ctx, resume=None))
    with pytest.raises(KeyboardInterrupt):
        stage.run(source, replace(ctx, progress=Watching(interrupt_at=step)))
    watching = Watching()
    resumed = stage.run(source, replace(ctx, progress=watching))
    assert len(watching.shown) == 12 - step
    assert digest(resumed.made) == digest(whole.made)
    assert resumed.facts["loss_curve"] == whole.facts["loss_curve"]


def test_a_budget_that_cannot_be_met_keeps_the_least_and_says_so(
    stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    outcome = replace(stage, size_mb=0.001).run(source, ctx)
    assert "the lowest that can be reached" in outcome.facts["budget_missed"]


def test_one_budget_is_wanted() -> None:
    for table, message in (
        ({}, "no goal to prune to"),
        ({"speedup": 2, "size_mb": 1}, "not both"),
        ({"speedup": 1}, "at least"),
    ):
        with pytest.raises(RecipeError, match=message):
            bind_recipe({"compress": [{"stage": "distill.gradual", **table}]})
    assert bind_recipe({"compress": [{"stage": "distill.gradual", "speedup": 2}]}).compress == (
        GradualPruning(speedup=2.0),
    )


def test_what_cannot_be_learned_is_refused_before_anything_is_cut(
    stage: GradualPruning, source: TorchModel, ctx: Context
) -> None:
    with pytest.raises(DataError, match="no text"):
        stage.run(source, replace(ctx, calibration=()))
    assert not any(ctx.work.iterdir())


def test_a_plan_foretells_the_budget_and_the_training(stage: GradualPruning, source: TorchModel, ctx: Context) -> None:
    before = forecast_of(source)
    told = stage.forecast(before, source, ctx)
    assert told.bytes(1) <= 1.03e6 * 0.03 < before.bytes(1)
    assert told.passes > stage.passes(len(TEXTS)) > 0
