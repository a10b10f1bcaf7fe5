"""What a package answers against the source's answers: each law with the runner that breaks it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.errors import SourceError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.precision import Limits
from converter.reference import (
    Reference,
    at_length,
    capture_reference,
    encode_probes,
    judge,
    judge_batched,
    torch_run,
)
from converter.scoring.percentile import Highest
from converter.stage import SILENT
from converter.validate.checks import Evaluation, Status, within
from converter.validate.compare import N_WORST, P99, compare, cosine
from tests.tiny import SENTENCES
from tests.torch_runner import Change, Feed, Outputs, TorchRunner

LIMITS = Limits(max_error=1e-3, mean_error=1e-4, cosine=0.999, agreement=0.98)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.fixture(scope="module")
def reference(model: TorchModel) -> Reference:
    return capture_reference(model, [Example(s) for s in SENTENCES], SILENT)


def labelled(model: TorchModel, reference: Reference, n_wrong: int = 0) -> tuple[Example, ...]:
    """Return the probes, labelled as the source answers but for the first `n_wrong`."""
    wrong = [(d + 1) % 3 if i < n_wrong else d for i, d in enumerate(reference.decisions)]
    return tuple(Example(s, label=d, where=f"file:{i}") for i, (s, d) in enumerate(zip(SENTENCES, wrong, strict=True)))


def result(
    model: TorchModel, reference: Reference, change: Change | None = None, limits: Limits = LIMITS
) -> Evaluation:
    runner = TorchRunner(model, change) if change else TorchRunner(model)
    return compare(model, reference, runner.run, limits, SILENT, "test")


def verdicts(evaluation: Evaluation) -> dict[str, Status]:
    return {c.name: c.status for c in evaluation.checks}


def test_the_source_itself_passes_every_check(model: TorchModel, reference: Reference) -> None:
    found = result(model, reference)
    assert found.status is Status.PASS
    assert set(verdicts(found).values()) == {Status.PASS}
    assert found.agreement == 1.0
    assert found.n_probes == len(found.errors) == len(SENTENCES)
    assert all(c.detail for c in found.checks)


def test_shuffled_labels_fail_agreement(model: TorchModel, reference: Reference) -> None:
    found = result(model, reference, lambda out, feed: {"logits": np.roll(out["logits"], 1, axis=-1)})
    assert verdicts(found)["agreement"] is Status.FAIL
    assert found.status is Status.FAIL
    assert found.reason().startswith("gate: ")
    first = found.worst[0]
    assert first.wanted != first.found
    assert {first.wanted, first.found} <= set(model.task.labels)


def test_errors_are_told_relative_to_the_output_range(model: TorchModel, reference: Reference) -> None:
    moved = 0.25 * reference.output_range["logits"]
    found = result(model, reference, lambda out, feed: {"logits": out["logits"] + np.float32(moved)})
    assert found.deviations[0].max_error == pytest.approx(0.25, rel=1e-3)
    assert found.deviations[0].mean_error == pytest.approx(0.25, rel=1e-3)
    assert verdicts(found)["max_error"] is verdicts(found)["mean_error"] is Status.FAIL
    assert found.agreement == 1.0


def test_one_bad_value_in_a_hundred_is_no_typical_error() -> None:
    texts = [np.full((4, 50), 0.01) for _ in range(10)]

    def p99() -> float:
        found = Highest(2000, P99)
        for text in texts:
            found.add(text)
        return found.value()

    texts[3][0, :20] = 0.66
    assert p99() == 0.01
    texts[3][0, :21] = 0.66
    assert p99() == 0.66


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 777, 5000])
def test_a_percentile_of_parts_is_that_of_the_whole(n: int) -> None:
    values = np.random.default_rng(n).exponential(size=n).round(2)
    found = Highest(n, P99)
    for part in np.array_split(values, min(n, 7)):
        found.add(part)
    assert found.value() == np.percentile(values, 99, method="inverted_cdf")


def test_a_percentile_of_other_values_than_announced_is_refused() -> None:
    found = Highest(10, P99)
    with pytest.raises(ValueError, match="announced"):
        found.value()
    found.add(np.ones(9))
    with pytest.raises(ValueError, match="announced"):
        found.value()


def test_a_shift_of_every_value_is_the_typical_error(model: TorchModel, reference: Reference) -> None:
    moved = 0.25 * reference.output_range["logits"]
    found = result(model, reference, lambda out, feed: {"logits": out["logits"] + np.float32(moved)})
    assert found.deviations[0].p99_error == pytest.approx(0.25, rel=1e-3)


def test_the_text_of_the_largest_error_is_shown_even_where_many_are_answered_otherwise(
    model: TorchModel, reference: Reference
) -> None:
    largest = reference.probes[7]

    def change(out: Outputs, feed: Feed) -> Outputs:
        same = np.array_equal(feed["input_ids"][0], largest.encoding.inputs["input_ids"])
        return {"logits": out["logits"] * 1000 if same else np.roll(out["logits"], 1, axis=-1)}

    found = result(model, reference, change)
    assert len(found.worst) == N_WORST
    assert max(found.worst, key=lambda w: w.error).text.startswith(largest.example.text[:40])


def test_a_turned_vector_fails_cosine(model: TorchModel, reference: Reference) -> None:
    found = result(model, reference, lambda out, feed: {"logits": -out["logits"]})
    assert found.deviations[0].cosine == pytest.approx(-1.0, abs=1e-4)
    assert verdicts(found)["cosine"] is Status.FAIL


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_nan_fails_and_names_its_text(model: TorchModel, reference: Reference, bad: float) -> None:
    target = reference.probes[7]

    def change(out: Outputs, feed: Feed) -> Outputs:
        if np.array_equal(feed["input_ids"][0], target.encoding.inputs["input_ids"]):
            out = {"logits": out["logits"].copy()}
            out["logits"][0, 1] = bad
        return out

    found = result(model, reference, change)
    check = next(c for c in found.checks if c.name == "finite")
    assert check.status is Status.FAIL
    assert target.example.text[:40] in check.detail
    assert verdicts(found)["max_error"] is Status.FAIL
    assert found.deviations[0].max_error == math.inf
    assert found.agreement == pytest.approx(1 - 1 / len(SENTENCES))


def test_all_nan_agrees_with_nothing(model: TorchModel, reference: Reference) -> None:
    found = result(model, reference, lambda out, feed: {"logits": out["logits"] * np.nan})
    assert found.agreement == 0.0
    assert found.status is Status.FAIL


def test_nan_in_the_evaluation_file_beyond_the_probes_is_seen(model: TorchModel, reference: Reference) -> None:
    probes = [Example(s) for s in SENTENCES[:6]]
    wide = capture_reference(model, probes, SILENT, labelled(model, reference))
    last = wide.scored[-1].encoding.inputs["input_ids"]

    def change(out: Outputs, feed: Feed) -> Outputs:
        return {"logits": out["logits"] * np.nan} if np.array_equal(feed["input_ids"][0], last) else out

    check = next(c for c in result(model, wide, change).checks if c.name == "finite")
    assert check.status is Status.FAIL
    assert SENTENCES[-1][:40] in check.detail


def test_an_output_of_another_shape_fails(model: TorchModel, reference: Reference) -> None:
    found = result(model, reference, lambda out, feed: {"logits": out["logits"][:, :2]})
    check = next(c for c in found.checks if c.name == "finite")
    assert check.status is Status.FAIL
    assert "(2,)" in check.detail


def test_nan_never_passes_a_limit() -> None:
    assert within(math.nan, 1.0) is Status.FAIL
    assert within(math.nan, 1.0, at_least=True) is Status.FAIL
    assert within(1.0, 1.0) is within(1.0, 1.0, at_least=True) is Status.PASS


def test_without_probes_nothing_is_proven(model: TorchModel) -> None:
    empty = capture_reference(model, [], SILENT)
    found = result(model, empty)
    assert found.status is Status.NOT_RUN
    assert math.isnan(found.agreement)
    assert "no texts to compare" in found.reason()


def test_without_a_limit_nothing_is_proven(model: TorchModel, reference: Reference) -> None:
    assert result(model, reference, limits=Limits()).status is Status.NOT_RUN


def test_a_source_that_answers_all_alike_proves_nothing(model: TorchModel, reference: Reference) -> None:
    texts = [s for s, d in zip(SENTENCES, reference.decisions, strict=True) if d == reference.decisions[0]]
    assert len(texts) > 1
    alike = capture_reference(model, [Example(s) for s in texts], SILENT)
    found = result(model, alike)
    assert verdicts(found)["agreement"] is Status.NOT_RUN
    assert found.status is Status.NOT_RUN
    assert "same answer" in found.reason()


def test_constant_outputs_prove_nothing(model: TorchModel, reference: Reference) -> None:
    constant = {"logits": np.asarray([0.5, -1.0, 0.25], dtype=np.float32)}
    judged = tuple(replace(j, outputs=constant) for j in reference.judged)
    found = result(model, replace(reference, judged=judged), limits=Limits(max_error=1e9, agreement=0.0))
    assert verdicts(found)["max_error"] is verdicts(found)["agreement"] is Status.NOT_RUN


def test_the_metric_uses_the_whole_evaluation_file(model: TorchModel, reference: Reference) -> None:
    probes = [Example(s) for s in SENTENCES[:4]]
    wide = capture_reference(model, probes, SILENT, labelled(model, reference, n_wrong=2))
    assert wide.metric["accuracy"] == pytest.approx(1 - 2 / len(SENTENCES))
    found = result(model, wide, limits=replace(LIMITS, max_drop=0.0))
    assert found.metric == pytest.approx(wide.metric)
    assert found.n_probes == 4
    assert verdicts(found)["metric"] is Status.PASS


def test_a_falling_metric_fails_though_the_probes_agree(model: TorchModel, reference: Reference) -> None:
    probes = [Example(s) for s in SENTENCES[:10]]
    wide = capture_reference(model, probes, SILENT, labelled(model, reference))
    known = [p.encoding.inputs["input_ids"] for p in wide.probes]

    def change(out: Outputs, feed: Feed) -> Outputs:
        seen = any(np.array_equal(feed["input_ids"][0], ids) for ids in known)
        return out if seen else {"logits": np.roll(out["logits"], 1, axis=-1)}

    found = result(model, wide, change, replace(LIMITS, max_drop=0.3))
    assert found.n_probes == 10
    assert found.agreement == pytest.approx(20 / 30), "the labelled texts beside the probes count too"
    assert verdicts(found)["metric"] is Status.FAIL
    assert verdicts(result(model, wide, change, replace(LIMITS, max_drop=0.9)))["metric"] is Status.PASS


def test_a_source_at_chance_proves_nothing(model: TorchModel, reference: Reference) -> None:
    labels = [i % 3 for i in range(len(SENTENCES))]
    wrong = [(d + 1) % 3 for d in reference.decisions]
    for given in (wrong, [w if i % 2 else x for i, (w, x) in enumerate(zip(wrong, labels, strict=True))]):
        examples = [Example(s, label=d) for s, d in zip(SENTENCES, given, strict=True)]
        lost = capture_reference(model, examples, SILENT)
        assert lost.metric["accuracy"] <= lost.chance
        found = result(model, lost, limits=replace(LIMITS, max_drop=0.1))
        assert verdicts(found)["metric"] is verdicts(found)["agreement"] is Status.NOT_RUN
        assert "chance" in found.reason()


def test_a_drop_without_labels_is_not_run(model: TorchModel, reference: Reference) -> None:
    assert verdicts(result(model, reference, limits=replace(LIMITS, max_drop=0.1)))["metric"] is Status.NOT_RUN


def test_a_batch_of_the_source_answers_like_single_texts(model: TorchModel, reference: Reference) -> None:
    probes = encode_probes(model, [Example(s) for s in SENTENCES])
    alone = judge(model, probes, torch_run(model), SILENT, "")
    together = judge_batched(model, probes, torch_run(model), SILENT, "")
    for a, b in zip(alone, together, strict=True):
        assert a.example == b.example
        np.testing.assert_allclose(a.outputs["logits"], b.outputs["logits"], atol=1e-4)


def test_a_source_that_answers_nan_is_refused(model: TorchModel) -> None:
    import copy

    import torch

    broken = replace(model, module=copy.deepcopy(model.module))
    with torch.no_grad():
        next(p for n, p in broken.module.named_parameters() if n.endswith("classifier.bias"))[0] = torch.nan
    with pytest.raises(SourceError, match="the source itself answers NaN"):
        capture_reference(broken, [Example(SENTENCES[0])], SILENT)


def test_a_shorter_package_is_judged_at_its_own_length(model: TorchModel, reference: Reference) -> None:
    short, cut = at_length(model, reference, 8, SILENT)
    assert short.max_length == max(p.encoding.length for p in cut.probes) == 8
    asked = capture_reference(replace(model, max_length=8), [Example(s) for s in SENTENCES], SILENT)
    assert cut.decisions == asked.decisions
    assert cut.output_range == asked.output_range
    assert at_length(model, reference, 64, SILENT)[1] is reference


def test_a_shorter_package_is_scored_against_the_source_at_its_own_length(
    model: TorchModel, reference: Reference
) -> None:
    wide = capture_reference(model, [Example(s) for s in SENTENCES[:4]], SILENT, labelled(model, reference))
    short, cut = at_length(model, wide, 6, SILENT)
    assert wide.metric["accuracy"] == 1.0 > cut.metric["accuracy"]
    assert max(p.encoding.length for p in cut.scored) == 6
    assert compare(short, cut, torch_run(short), LIMITS, SILENT, "").metric == cut.metric


def test_cosine_of_nothing_is_no_agreement() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert cosine(zero, one) == 0.0
    assert cosine(zero, zero) == 1.0
    assert cosine(one * 60000, one * 60000) == pytest.approx(1.0)
