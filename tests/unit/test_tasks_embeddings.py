"""Embeddings: nearest neighbours, and pairs scored by their cosine."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.examples import Encoding, Example
from converter.registry import task_class
from converter.task import Judged, Task
from converter.tasks.feature_extraction import NEIGHBOR_ROOM


def task() -> Task:
    return task_class("feature-extraction")(SimpleNamespace())


def judged(vectors: Any, examples: Any = None, ids: Any = None) -> list[Judged]:
    given = examples or [Example(f"text {i}") for i in range(len(vectors))]
    keys = ids or range(len(vectors))
    return [
        Judged(e, Encoding({"input_ids": np.asarray([k])}), {"sentence_embedding": np.asarray(v, dtype=np.float32)})
        for v, e, k in zip(vectors, given, keys, strict=True)
    ]


def around(*degrees: float) -> list[list[float]]:
    return [[float(np.cos(np.radians(d))), float(np.sin(np.radians(d)))] for d in degrees]


def test_the_nearest_is_by_angle_and_not_the_text_itself() -> None:
    found = task().decisions(judged([[1, 0], [10, 1], [0, 5]]))
    assert [d.index for d in found] == [1, 0, 1]


def test_a_text_with_the_same_tokens_is_no_neighbour() -> None:
    found = task().decisions(judged(around(0, 0, 40), ids=[7, 7, 8]))
    assert [d.index for d in found] == [2, 2, 0]
    alone = task().decisions(judged(around(0, 0), ids=[7, 7]))
    assert [d.index for d in alone] == [-1, -1]
    assert task().agreement(alone, alone) == 1.0


def test_another_neighbour_agrees_only_where_the_source_sees_a_tie() -> None:
    given = task()
    wanted = given.decisions(judged(around(0, 10, -10.5, 90)))
    tied = given.decisions(judged(around(0, 10.5, -10, 90)))
    assert wanted[0].index != tied[0].index
    assert abs(wanted[0].cosines[1] - wanted[0].cosines[2]) < NEIGHBOR_ROOM
    assert given.same(wanted[0], tied[0]) == 1.0
    wrong = given.decisions(judged(around(0, 40, -40, 5)))
    assert wrong[0].index == 3
    assert given.same(wanted[0], wrong[0]) == 0.0


def test_neighbours_among_other_texts_are_not_compared() -> None:
    given = task()
    with pytest.raises(ValueError, match="same texts"):
        given.same(given.decisions(judged(around(0, 1)))[0], given.decisions(judged(around(0, 1, 2)))[0])


def test_embeddings_that_are_all_alike_tell_nothing() -> None:
    given = task()
    assert given.distinct(given.decisions(judged(around(0, 0.1, 0.2, 0.3)))) == 1
    assert given.distinct(given.decisions(judged(around(0, 10, 100, 110)))) > 1


def test_pairs_are_joined_again_by_their_group() -> None:
    examples = [
        Example("a", label=5.0, group="1"),
        Example("c", label=0.0, group="2"),
        Example("b", label=5.0, group="1"),
        Example("d", label=0.0, group="2"),
        Example("e", label=3.0, group="3"),
        Example("f", label=3.0, group="3"),
        Example("half of a pair", label=1.0, group="4"),
        Example("alone"),
    ]
    found = judged(around(0, 0, 5, 80, 0, 30, 7, 8), examples)
    assert task().metric(found)["spearman"] == pytest.approx(1.0)
    # The same vectors with one pair's far and near texts swapped order the pairs the other way.
    assert task().metric(judged(around(0, 0, 80, 5, 0, 30, 7, 8), examples))["spearman"] < 0
    assert task().metric(found[-2:]) == {}


def test_without_a_sentence_head_the_mean_over_tokens_is_the_embedding() -> None:
    hidden = [np.asarray([[2, 0], [0, 0]], dtype=np.float32), np.asarray([[0, 3], [1, 0]], dtype=np.float32)]
    made = [
        Judged(Example(str(i)), Encoding({"input_ids": np.asarray([i, i])}), {"last_hidden_state": h})
        for i, h in enumerate(hidden)
    ]
    cosine = task().decisions(made)[0].cosines[1]
    assert cosine == pytest.approx(0.5 / np.hypot(0.5, 1.5), rel=1e-5)


def test_losses_fall_towards_the_teacher_and_leave_padding_out() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    teacher = {"last_hidden_state": torch.randn(2, 3, 4)}
    padded = {"last_hidden_state": teacher["last_hidden_state"] + 9 * (1 - mask)[:, :, None]}
    assert float(task().soft_loss(padded, teacher, mask, 1.0)) == pytest.approx(0.0, abs=1e-6)
    near = {"last_hidden_state": teacher["last_hidden_state"] + 0.1}
    far = {"last_hidden_state": -teacher["last_hidden_state"]}
    assert float(task().soft_loss(far, teacher, mask, 1.0)) > float(task().soft_loss(near, teacher, mask, 1.0)) > 0


def test_pairs_in_a_batch_are_trained_into_the_order_of_their_scores() -> None:
    examples = [
        Example(t, label=s, group=g) for t, s, g in (("a", 5, "1"), ("b", 5, "1"), ("c", 1, "2"), ("d", 1, "2"))
    ]
    batch = [(e, Encoding({"input_ids": np.zeros(1, dtype=np.int64)})) for e in examples]

    def loss(*degrees: float) -> float:
        vectors = torch.tensor(around(*degrees))
        made = task().hard_loss({"last_hidden_state": vectors[:, None], "sentence_embedding": vectors}, batch)
        assert made is not None
        return float(made)

    assert loss(0, 5, 0, 80) < loss(0, 40, 0, 50) < loss(0, 80, 0, 5)
    hidden = {"last_hidden_state": torch.zeros(3, 1, 2)}
    assert task().hard_loss(hidden, batch[:3]) is None
