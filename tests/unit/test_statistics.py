"""What agreement and metric decide: on the user's own text by bounds, elsewhere by values that say on what."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.context import judged_text, read_text
from converter.errors import RecipeError
from converter.examples import Example, JudgedText, Origin, text_key
from converter.model_folder.load import load_source
from converter.precision import Limits, limits_table, points
from converter.recipe import bind_recipe, recipe_table
from converter.reference import Reference, capture_reference, score_parts
from converter.report.table import judged_on
from converter.scoring.intervals import (
    decide,
    jackknife_drop,
    paired_drop,
    paired_like,
    share_interval,
    share_like,
    texts_to_settle,
    unseen,
)
from converter.stage import SILENT
from converter.validate.bounds import drop_interval
from converter.validate.checks import Evaluation, Status
from converter.validate.compare import compare
from converter.validate.slices import ComparedText, slice_check, slices_of
from converter.validate.texts import CALIBRATED, NOTES, text_facts
from tests.tiny import SENTENCES
from tests.torch_runner import Feed, Outputs, TorchRunner

LOSSY = Limits(agreement=0.97, max_drop=0.02)
OWN = JudgedText(Origin.OWN)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.fixture(scope="module")
def reference(model: TorchModel) -> Reference:
    plain = capture_reference(model, [Example(s) for s in SENTENCES], SILENT)
    texts = [Example(f"{s} {i}", where=f"file:{i}") for i in range(10) for s in SENTENCES]
    decisions = capture_reference(model, texts, SILENT).decisions
    labelled = [replace(e, label=d) for e, d in zip(texts, decisions, strict=True)]
    assert plain.judged
    return capture_reference(model, labelled, SILENT)


def judged(
    model: TorchModel, reference: Reference, text: JudgedText, n_wrong: int = 0, limits: Limits = LOSSY
) -> Evaluation:
    """Compare a model that answers the first `n_wrong` texts otherwise."""
    wrong = [p.encoding.inputs["input_ids"] for p in reference.probes[:n_wrong]]

    def change(out: Outputs, feed: Feed) -> Outputs:
        turned = any(np.array_equal(feed["input_ids"][0], ids) for ids in wrong)
        return {"logits": np.roll(out["logits"], 1, axis=-1)} if turned else out

    shown = replace(reference, text=text)
    return compare(model, shown, TorchRunner(model, change).run, limits, SILENT, "test")


def few(model: TorchModel, reference: Reference, n: int = 20) -> Reference:
    return capture_reference(model, [j.example for j in reference.judged[:n]], SILENT)


def test_an_exact_bound_is_that_of_the_tables() -> None:
    assert share_interval([1.0] * 149).low == pytest.approx(0.05 ** (1 / 149))
    assert share_interval([1.0] * 9 + [0.0]).low == pytest.approx(0.6058, abs=1e-4)  # Clopper-Pearson, one-sided 95 %
    assert paired_drop(0, 0, 149).high == pytest.approx(unseen(149))


def test_bounds_come_nearer_with_more_texts_and_hold_the_value() -> None:
    for n in (20, 100, 1000):
        found = paired_drop(n // 20, n // 50, n)
        wider = paired_drop(n // 20, n // 50, n, 0.99)
        assert wider.low < found.low < found.value < found.high < wider.high
    assert paired_drop(50, 20, 1000).high < paired_drop(5, 2, 100).high


def test_texts_that_would_settle_it_do() -> None:
    for found, like, limit, at_least in (
        (share_interval([1.0] * 20), share_like(share_interval([1.0] * 20)), 0.97, True),
        (paired_drop(0, 0, 20), paired_like(0, 0, 20), 0.02, False),
        (paired_drop(3, 1, 200), paired_like(3, 1, 200), 0.02, False),
    ):
        assert decide(found, limit, at_least=at_least) is None
        needed = texts_to_settle(found, limit, like, at_least=at_least)
        assert needed is not None
        assert decide(like(needed), limit, at_least=at_least) is not None
        assert decide(like(needed - 1), limit, at_least=at_least) is None


def test_a_score_of_groups_has_bounds_like_those_of_right_and_wrong() -> None:
    rng = np.random.default_rng(0)
    lost = rng.random(800) < 0.03
    without = [float(np.delete(lost, np.arange(g, 800, 40)).mean()) for g in range(40)]
    by_groups, exact = jackknife_drop(float(lost.mean()), without, 800), paired_drop(int(lost.sum()), 0, 800)
    assert by_groups.high == pytest.approx(exact.high, abs=0.004)


@pytest.mark.parametrize("n", [20, 100, 400])
def test_a_loss_of_five_points_does_not_pass_two_and_a_good_package_does_not_fail(n: int) -> None:
    """A short run of benchmarks/statistics.py."""
    rng = np.random.default_rng(n)
    passed = failed = 0
    for _ in range(300):
        passed += (
            decide(paired_drop(int((rng.random(n) < 0.06).sum()), int((rng.random(n) < 0.01).sum()), n), 0.02) is True
        )
        failed += (
            decide(paired_drop(int((rng.random(n) < 0.008).sum()), int((rng.random(n) < 0.004).sum()), n), 0.02)
            is False
        )
    assert passed <= 15
    assert failed <= 15


def test_twenty_texts_of_ones_own_settle_nothing_and_say_how_many_would(
    model: TorchModel, reference: Reference
) -> None:
    found = judged(model, few(model, reference), OWN)
    agreement = next(c for c in found.checks if c.name == "agreement")
    assert found.status is agreement.status is Status.NOT_RUN
    assert agreement.value == 1.0
    assert "undecided on 20 texts, about 99 like these would settle it" in (found.reason() or "")
    assert found.facts["statistics"]["texts_needed"] == 99


def test_two_hundred_texts_of_ones_own_settle_it_either_way(model: TorchModel, reference: Reference) -> None:
    assert len(reference.judged) == 200
    good = judged(model, reference, OWN)
    assert good.status is Status.PASS, good.reason()
    assert "decided by the bound" in next(c.detail for c in good.checks if c.name == "metric")
    bad = judged(model, reference, OWN, n_wrong=30)
    assert {c.name for c in bad.checks if c.status is Status.FAIL} >= {"agreement", "metric"}
    between = judged(model, reference, OWN, n_wrong=5)
    assert between.status is Status.NOT_RUN


def test_builtin_text_decides_by_its_value_and_says_so(model: TorchModel, reference: Reference) -> None:
    found = judged(model, few(model, reference), JudgedText())
    assert found.status is Status.PASS
    assert all("on built-in text" in c.detail for c in found.checks if c.name in {"agreement", "metric"})
    assert judged_on({"facts": found.facts}) == " on built-in text"
    assert judged_on({"facts": judged(model, reference, OWN).facts}) == ""


def test_a_metric_that_texts_do_not_settle_stops_only_who_asked_for_its_limit(
    model: TorchModel, reference: Reference
) -> None:
    limits = replace(LOSSY, max_drop=0.001)
    default, asked = (judged(model, reference, replace(OWN, drop_asked=asks), limits=limits) for asks in (False, True))
    for found in (default, asked):
        assert next(c for c in found.checks if c.name == "metric").status is Status.NOT_RUN
    assert default.status is Status.PASS
    assert asked.status is Status.NOT_RUN
    assert "would settle it" in (asked.reason() or "")


def test_output_values_within_their_limit_need_no_sample(model: TorchModel, reference: Reference) -> None:
    exact = replace(LOSSY, max_error=1e-4, agreement=1.0)
    assert judged(model, few(model, reference), OWN, limits=exact).status is Status.PASS


def test_a_kind_of_text_that_breaks_fails_though_the_mean_holds(model: TorchModel, reference: Reference) -> None:
    texts = [ComparedText(Example(f"word {i}"), 5 + i % 7, 0, 1.0) for i in range(900)]
    texts += [ComparedText(Example(f"слово {i}"), 5 + i % 7, 0, float(i > 15)) for i in range(60)]
    assert np.mean([t.same for t in texts]) > LOSSY.agreement
    found = slices_of(texts, model.task, LOSSY, OWN)
    check = slice_check(found, LOSSY)
    assert check is not None
    assert check.status is Status.FAIL
    assert "script 'Cyrillic'" in check.detail
    assert [s.name for s in found if s.status is Status.FAIL and s.by == "script"] == ["Cyrillic"]
    by_length = slice_check(slices_of(texts, model.task, LOSSY, replace(OWN, slices=("length",))), LOSSY)
    assert by_length is not None
    assert by_length.status is Status.PASS


def test_no_slice_of_a_good_package_is_called_broken(model: TorchModel) -> None:
    """Thirty draws, about a dozen slices each: the bounds of all together hold."""
    broken = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        texts = [
            ComparedText(
                Example(f"word {i} {'long ' * int(rng.integers(0, 9))}", label=int(rng.integers(0, 3))),
                int(rng.integers(3, 60)),
                0,
                float(rng.random() > 0.01),
            )
            for i in range(400)
        ]
        broken += any(s.status is Status.FAIL for s in slices_of(texts, model.task, LOSSY, OWN))
    assert broken == 0


def test_text_that_was_calibrated_on_is_said(model: TorchModel, reference: Reference) -> None:
    seen = frozenset(text_key(j.example) for j in reference.judged[:50])
    found = text_facts(model, replace(reference, text=replace(OWN, calibrated=seen)))
    assert found[CALIBRATED] == {"texts": 50, "of": 200}
    assert "50 of 200 judged texts were calibrated on" in found[NOTES][-1]
    assert CALIBRATED not in text_facts(model, reference)


def test_whose_text_it_is(tiny: Callable[..., Path], model: TorchModel, tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(SENTENCES), encoding="utf-8")
    for files, origin in (
        ({}, Origin.BUILT_IN),
        ({"calibration": str(data)}, Origin.CALIBRATION),
        ({"eval": str(data)}, Origin.OWN),
    ):
        recipe = bind_recipe({"model": str(tiny()), **files})
        assert judged_text(recipe, read_text(recipe, model, SILENT)).origin is origin


def test_a_score_in_parts_is_that_of_right_answers_where_the_metric_is_one(
    model: TorchModel, reference: Reference
) -> None:
    assert len(reference.score.right) == 200
    assert all(reference.score.right)
    half = score_parts(model.task, reference.judged[:40], {"accuracy": 0.123})
    assert not half.right
    assert len(half.without) == 40
    assert drop_interval(model.task, 0.0, reference.score, half, 200, 0.95) == (None, None)


@pytest.mark.parametrize(("given", "drop"), [("0.5pt", 0.005), ("0.005", 0.005), (0.02, 0.02), ("50pt", 0.5), (0, 0.0)])
def test_a_drop_is_points_or_a_share(given: object, drop: float) -> None:
    assert points(given, "max_drop") == drop


@pytest.mark.parametrize("given", [0.5, "2", 1])
def test_a_bare_number_that_means_points_is_refused_with_two_ways_to_say_it(given: object) -> None:
    with pytest.raises(RecipeError) as found:
        bind_recipe({"model": "m", "limits": {"max_drop": given}})
    assert f"write {float(str(given)):g}pt, or {float(str(given)) / 100:g}" in found.value.hint


def test_a_saved_recipe_says_its_points_again(tiny: Callable[..., Path]) -> None:
    table = {"model": "m", "confidence": 0.9, "slices": ["none"], "limits": {"max_drop": "250pt", "agreement": 0.5}}
    recipe = bind_recipe(table)
    assert recipe.limits[""].max_drop == 2.5
    assert recipe.slices == ()
    assert bind_recipe(recipe_table(recipe)) == recipe
    assert limits_table(Limits(max_drop=0.02)) == {"max_drop": 0.02}


@pytest.mark.parametrize("table", [{"confidence": 95}, {"confidence": True}, {"slices": ["lenght"]}])
def test_a_confidence_or_slice_that_is_none_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        bind_recipe({"model": "m", **table})
