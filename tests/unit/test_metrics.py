"""Scores against golden values that were worked out by hand."""

import math
import random
from typing import Any

import pytest

from converter.scoring import metrics


def test_entities_follow_conlleval() -> None:
    # Golden: the transitions of conlleval, one by one.
    cases = {
        ("B-PER", "I-PER", "O"): [("PER", 0, 2)],
        ("I-PER", "I-PER", "O"): [("PER", 0, 2)],  # IOB1: I- opens
        ("B-PER", "B-PER"): [("PER", 0, 1), ("PER", 1, 2)],
        ("I-PER", "I-LOC"): [("PER", 0, 1), ("LOC", 1, 2)],  # another type opens
        ("B-PER", "I-LOC", "I-LOC"): [("PER", 0, 1), ("LOC", 1, 3)],
        ("B-PER", "I-PER", "E-PER", "S-LOC"): [("PER", 0, 3), ("LOC", 3, 4)],  # BIOES
        ("E-PER", "I-PER"): [("PER", 0, 1), ("PER", 1, 2)],  # E- has ended it
        ("S-PER", "I-PER"): [("PER", 0, 1), ("PER", 1, 2)],
        ("B-LOC", "L-LOC", "U-PER"): [("LOC", 0, 2), ("PER", 2, 3)],  # BILOU
        ("O", "O"): [],
        ("PER", "PER", "O", "LOC"): [("PER", 0, 2), ("LOC", 3, 4)],  # no prefixes
        ("B-creative-work", "I-creative-work"): [("creative-work", 0, 2)],
    }
    assert {tags: metrics.entities(tags) for tags in cases} == cases


def test_entity_f1_counts_whole_entities() -> None:
    # The example of seqeval's documentation: PER is right, MISC starts one word early.
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert metrics.entity_scores(gold, found) == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert metrics.tag_accuracy(gold, found) == pytest.approx(8 / 10)


def test_entity_precision_and_recall_differ() -> None:
    gold = [["B-PER", "O", "B-LOC", "O"]]
    found = [["B-PER", "O", "O", "O"]]
    scores = metrics.entity_scores(gold, found)
    assert scores == {"f1": pytest.approx(2 / 3), "precision": 1.0, "recall": 0.5}


def test_entities_do_not_run_over_the_end_of_a_sentence() -> None:
    split = metrics.entity_scores([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]])
    assert split["f1"] == 1.0
    assert metrics.entities(["B-PER"]) + metrics.entities(["I-PER"]) == [("PER", 0, 1), ("PER", 0, 1)]


def test_no_entity_on_either_side_scores_nothing() -> None:
    assert metrics.entity_scores([["O", "O"]], [["O", "O"]])["f1"] == 0.0


def test_f1_is_of_the_positive_class_with_two_classes_and_the_mean_with_more() -> None:
    # Class 1: one hit, one false alarm, no miss: P 1/2, R 1.
    assert metrics.f1([0, 0, 1], [0, 1, 1], 2) == pytest.approx(2 / 3)
    # Per class 2/3, 0, 1.
    assert metrics.f1([0, 1, 2], [0, 0, 2], 3) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert metrics.f1([1, 1], [0, 0], 2) == 0.0


def test_matthews_by_hand() -> None:
    # TP 1, TN 1, FP 1, FN 0: (1·1 - 1·0) / sqrt(2·1·2·1) = 1/2.
    assert metrics.matthews([0, 0, 1], [0, 1, 1]) == pytest.approx(0.5)
    assert metrics.matthews([0, 1, 1], [1, 1, 1]) == 0.0


def test_micro_f1_counts_labels_over_all_rows() -> None:
    # Right 2, found 3, wanted 3.
    assert metrics.micro_f1([[1, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 1, 1]]) == pytest.approx(2 / 3)


def test_correlations_by_hand() -> None:
    assert metrics.spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6·2 / (4·15)
    assert metrics.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert metrics.pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


@pytest.mark.parametrize("score", [metrics.spearman, metrics.pearson])
def test_a_constant_answer_has_no_correlation(score: Any) -> None:
    assert score([1, 2, 3], [5, 5, 5]) == 0.0
    assert score([1], [1]) == 0.0


def test_answers_are_compared_as_squad_does() -> None:
    assert metrics.normalize_answer("The  Green-Line, a tram!") == "greenline tram"
    assert metrics.exact_match([["the Eiffel Tower", "Paris"]], ["Eiffel tower."]) == 1.0
    # Words in common 2 (of 3 found, 2 wanted): P 2/3, R 1.
    assert metrics.answer_f1([["Eiffel Tower"]], ["big Eiffel Tower"]) == pytest.approx(0.8)
    # A word counts as often as both have it.
    assert metrics.word_f1("x x y", "x z") == pytest.approx(2 * 1 / 5)


def test_no_answer_is_right_only_where_there_is_none() -> None:
    assert metrics.exact_match([[], ["blue"]], ["", ""]) == 0.5
    assert metrics.answer_f1([[], ["blue"]], ["green", "blue"]) == 0.5


@pytest.mark.parametrize(
    "score",
    [
        metrics.accuracy,
        metrics.matthews,
        metrics.micro_f1,
        metrics.spearman,
        metrics.pearson,
        metrics.entity_scores,
        metrics.tag_accuracy,
        metrics.exact_match,
        metrics.answer_f1,
        lambda a, b: metrics.f1(a, b, 2),
    ],
)
def test_nothing_to_score_is_an_error_and_so_is_a_missing_answer(score: Any) -> None:
    with pytest.raises(ValueError, match="nothing"):
        score([], [])
    with pytest.raises(ValueError, match="2 gold labels and 1"):
        score([[1], [0]], [[1]])


def test_a_sentence_with_missing_tags_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 tags has 1"):
        metrics.entity_scores([["O", "O"]], [["O"]])


def test_scores_are_finite() -> None:
    assert all(math.isfinite(v) for v in metrics.entity_scores([["O"]], [["B-X"]]).values())


SCHEMES = {"iob2": "BIIB", "iobes": "BIES", "bilou": "BILU", "io": "IIII"}
"""Prefixes of an entity's first, inner and last word, and of its only one."""


def _tagged(scheme: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return sentences of random entities, and other tags for two of five of them, cut where the sentence ends."""
    first, inner, last, only = SCHEMES[scheme]
    rng = random.Random(7)

    def sentence() -> list[str]:
        tags: list[str] = []
        while len(tags) < 12:
            size, kind = rng.choice((0, 0, 1, 2, 3)), rng.choice(("PER", "LOC"))
            prefixes = only if size == 1 else first + inner * (size - 2) + last if size else ""
            tags += [f"{p}-{kind}" for p in prefixes] or ["O"]
        return tags

    gold = [sentence() for _ in range(40)]
    return gold, [g if rng.random() < 0.6 else (sentence() * 2)[: len(g)] for g in gold]


@pytest.mark.parametrize(
    ("scheme", "of_seqeval"), [("iob2", 0.5203252032520325), ("iobes", 0.5203252032520325), ("io", 0.5107913669064749)]
)
def test_entities_of_each_scheme_score_as_in_seqeval(scheme: str, of_seqeval: float) -> None:
    """Recorded of seqeval 1.2.2, `f1_score(gold, found)`."""
    assert metrics.entity_scores(*_tagged(scheme))["f1"] == pytest.approx(of_seqeval, abs=1e-12)


def test_bilou_scores_as_the_same_entities_do_in_other_schemes() -> None:
    """seqeval's default takes U- and L- for nothing and scores otherwise; its strict mode drops what is cut off."""
    scored = {scheme: metrics.entity_scores(*_tagged(scheme)) for scheme in ("bilou", "iobes", "iob2")}
    assert scored["bilou"] == scored["iobes"] == scored["iob2"]


def test_another_order_of_classes_is_found_where_it_fits_far_better() -> None:
    wanted = [0, 1, 2] * 20
    assert metrics.renumbered(wanted, [(w + 1) % 3 for w in wanted], 3) == ([1, 2, 0], 0.0, 1.0)
    assert metrics.renumbered(wanted, wanted, 3) is None
    assert metrics.renumbered(wanted[:9], [(w + 1) % 3 for w in wanted[:9]], 3) is None  # luck, perhaps
    assert metrics.renumbered([0] * 60, [1] * 60, 2) is None  # no better than always saying the same
