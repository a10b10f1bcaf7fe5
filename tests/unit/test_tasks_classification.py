"""Text classification: three readings of the logits, each deciding, scoring and training its own way."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import DataError
from converter.examples import Encoding, Example
from converter.registry import task_class
from converter.task import Judged, Task

NOTHING = Encoding({"input_ids": np.zeros(2, dtype=np.int64)})


def task(n: int = 3, problem: str | None = None) -> Task:
    labels = {i: f"class {i}" for i in range(n)}
    return task_class("text-classification")(SimpleNamespace(num_labels=n, id2label=labels, problem_type=problem))


def judged(rows: Any, labels: Any = None) -> list[Judged]:
    given = labels or [None] * len(rows)
    return [
        Judged(Example("x", label=label), NOTHING, {"logits": np.asarray(row, dtype=np.float32)})
        for row, label in zip(rows, given, strict=True)
    ]


def batch(labels: Any) -> list[tuple[Example, Encoding]]:
    return [(Example("x", label=label), NOTHING) for label in labels]


def test_the_configuration_says_how_logits_are_read() -> None:
    assert task(3).metric_name == "accuracy"
    assert task(1).metric_name == "spearman"
    assert task(2, "regression").metric_name == "spearman"
    assert task(3, "multi_label_classification").metric_name == "f1"


def test_a_single_label_is_the_largest_logit() -> None:
    given = task(3)
    found = judged([[0, 2, 1], [3, 2, 1], [0, 0, 1], [5, 0, 0]], [1, 0, 1, None])
    assert given.decisions(found) == [1, 0, 2, 0]
    scores = given.metric(found)
    assert next(iter(scores)) == "accuracy"
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert given.chance([j.example for j in found]) == pytest.approx(2 / 3)
    assert given.describe(1, found[0].example) == "class 1"


def test_unlabelled_text_has_no_metric() -> None:
    for given in (task(3), task(1), task(3, "multi_label_classification")):
        assert given.metric(judged([[0.0] * len(given.labels)])) == {}


def test_multi_label_decides_each_class_at_one_half() -> None:
    given = task(3, "multi_label_classification")
    found = judged([[0.1, -0.1, 4], [-1, -1, -1]], [(1, 0, 0), (0, 0, 0)])
    assert given.decisions(found) == [frozenset({0, 2}), frozenset()]
    # One right label of two found and one wanted; the second row is right as a whole.
    assert given.metric(found) == {"f1": pytest.approx(2 / 3), "accuracy": 0.5}
    assert given.describe(frozenset({2, 0}), found[0].example) == "class 0, class 2"
    assert given.describe(frozenset(), found[0].example) == "no label"


def test_multi_label_chance_is_the_best_constant_set() -> None:
    given = task(3, "multi_label_classification")
    examples = [Example("x", label=label) for label in ((1, 0, 0), (1, 1, 0), (1, 0, 0))]
    # Always {0}: right 3, found 3, wanted 4: 6/7. Always {0, 1}: right 4, found 6, wanted 4: 8/10.
    assert given.chance(examples) == pytest.approx(6 / 7)


def test_scores_agree_within_a_share_of_the_sources_range() -> None:
    given = task(1)
    wanted = given.decisions(judged([[0.0], [5.0], [2.0]]))
    near = given.decisions(judged([[0.1], [4.9], [2.1]]))
    far = given.decisions(judged([[0.2], [4.9], [2.1]]))
    assert given.agreement(wanted, near) == 1.0
    assert given.agreement(wanted, far) == pytest.approx(2 / 3)
    assert given.distinct(wanted) == 3
    assert given.distinct(given.decisions(judged([[1.0], [1.0]]))) == 1


def test_scores_are_judged_by_their_order() -> None:
    found = judged([[1.0], [2.0], [4.0], [3.0]], [1.0, 2.0, 3.0, 4.0])
    scores = task(1).metric(found)
    assert scores["spearman"] == pytest.approx(0.8)
    assert task(1).chance([j.example for j in found]) == 0.0


def test_a_label_that_the_head_cannot_have_is_refused() -> None:
    for given, wrong, right in (
        (task(2), 2, 1),
        (task(2), (1, 0), 0),
        (task(2, "multi_label_classification"), (1, 2), (1, 0)),
        (task(2, "multi_label_classification"), 1, (0, 0)),
        (task(1), (1,), 0.5),
    ):
        given.check_labels([Example("x", label=right, where="f:1")])
        with pytest.raises(DataError, match="f:2"):
            given.check_labels([Example("x", label=wrong, where="f:2")])


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (task(3), [0, 2, None]),
        (task(3, "multi_label_classification"), [(1, 0, 1), (0, 0, 0), None]),
        (task(1), [0.5, 2.0, None]),
    ],
)
def test_losses_fall_towards_the_teacher_and_the_gold(given: Task, labels: list[Any]) -> None:
    torch.manual_seed(0)
    n = len(given.labels)
    teacher = {"logits": torch.randn(3, n)}
    mask = torch.ones(3, 2)
    far = {"logits": torch.randn(3, n)}
    near = {"logits": teacher["logits"] + 0.01}
    soft = [float(given.soft_loss(s, teacher, mask, 2.0)) for s in (far, near, teacher)]
    assert soft[0] > soft[1] >= soft[2]
    assert soft[2] == pytest.approx(0.0, abs=1e-6)

    logits = torch.zeros(3, n, requires_grad=True)
    loss = given.hard_loss({"logits": logits}, batch(labels))
    assert loss is not None
    loss.backward()
    assert logits.grad is not None
    assert bool((logits.grad[2] == 0).all())  # unlabelled
    after = given.hard_loss({"logits": logits - 0.5 * logits.grad}, batch(labels))
    assert after is not None
    assert float(after) < float(loss)
    assert given.hard_loss({"logits": logits}, batch([None, None, None])) is None


def test_agreement_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        task().agreement([], [])
