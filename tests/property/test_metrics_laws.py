"""Laws of the metrics for any input."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.scoring import metrics

TAG = st.sampled_from(["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "A"])
TAGS = st.lists(TAG, min_size=1, max_size=8)


@given(TAGS)
def test_entities_are_in_order_apart_and_cover_every_tag_but_o(tags: Any) -> None:
    found = metrics.entities(tags)
    assert all(a < b for _, a, b in found)
    assert all(first[2] <= second[1] for first, second in itertools.pairwise(found))
    assert {i for _, a, b in found for i in range(a, b)} == {i for i, t in enumerate(tags) if t != "O"}


@given(TAGS, st.data())
def test_f1_is_symmetric_and_precision_is_the_other_way_round_recall(gold: Any, data: Any) -> None:
    found = data.draw(st.lists(TAG, min_size=len(gold), max_size=len(gold)))
    one, other = metrics.entity_scores([gold], [found]), metrics.entity_scores([found], [gold])
    assert one["f1"] == pytest.approx(other["f1"])
    assert one["precision"] == pytest.approx(other["recall"])
    assert 0.0 <= one["f1"] <= 1.0


@given(TAGS)
def test_the_gold_itself_scores_one_where_it_has_an_entity(gold: Any) -> None:
    assert metrics.entity_scores([gold], [gold])["f1"] == float(any(t != "O" for t in gold))


@given(st.text(), st.text())
def test_word_f1_is_symmetric_and_one_for_equal_texts(a: Any, b: Any) -> None:
    assert metrics.word_f1(a, b) == pytest.approx(metrics.word_f1(b, a))
    assert metrics.word_f1(a, a) == 1.0
    assert 0.0 <= metrics.word_f1(a, b) <= 1.0


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text: Any) -> None:
    once = metrics.normalize_answer(text)
    # Removing an article can bring none forth: words are parted before and after.
    assert metrics.normalize_answer(once) == once


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=20))
def test_rank_correlation_does_not_depend_on_the_scale_of_scores(pairs: Any) -> None:
    gold, found = [a for a, _ in pairs], [b for _, b in pairs]
    stretched = [3.0 * b + 7.0 for b in found]
    assert metrics.spearman(gold, found) == pytest.approx(metrics.spearman(gold, stretched))
