"""Variants of texts: other texts of the same kind, without labels, the same for the same seed."""

from itertools import pairwise

import pytest

from converter.examples import Answer, Example
from converter.training.augment import variants_of
from tests.distilling import TEXTS
from tests.tiny import SENTENCES


def test_each_text_has_its_variants_and_none_has_a_label() -> None:
    made = variants_of(TEXTS, 3, 0, "[MASK]")
    assert len(made) == 3 * len(TEXTS)
    assert all(e.label is None and e.group == "" and e.text for e in made)
    assert not {e.text for e in made} & set(SENTENCES)
    assert len({e.text for e in made}) > 0.9 * len(made)


def test_seed_decides_and_a_longer_file_does_not_change_what_was_drawn_of_others() -> None:
    assert variants_of(TEXTS, 2, 5, None) == variants_of(TEXTS, 2, 5, None)
    assert variants_of(TEXTS, 2, 5, None) != variants_of(TEXTS, 2, 6, None)
    assert variants_of(TEXTS, 0, 5, None) == []


def test_words_come_from_the_texts_and_the_mask_alone() -> None:
    known = {w for s in SENTENCES for w in s.split()}
    found = {w for e in variants_of(TEXTS, 8, 0, "[MASK]") for w in e.text.split()}
    assert found - known == {"[MASK]"}
    assert {w for e in variants_of(TEXTS, 8, 0, None) for w in e.text.split()} <= known


def test_pairs_stay_pairs_and_questions_lose_their_answers() -> None:
    pairs = [Example(a, pair=b, label=Answer(("x",), (0,))) for a, b in pairwise(SENTENCES)]
    made = variants_of(pairs, 4, 0, "[MASK]")
    assert all(e.pair and e.text and e.label is None for e in made)
    changed = [(e.text != p.text, e.pair != p.pair) for e, p in zip(made, pairs * 4, strict=True)]
    assert set(changed) == {(True, False), (False, True)}


def test_words_stay_words_and_the_text_is_theirs() -> None:
    tagged = [Example(s, words=tuple(s.split()), label=("O",) * len(s.split())) for s in SENTENCES]
    made = variants_of(tagged, 2, 0, "[MASK]")
    assert all(e.words and e.text == " ".join(e.words) and e.label is None for e in made)


@pytest.mark.parametrize("text", ["今天的天气很好我们去公园散步吧", "wonderful"])
def test_text_without_spaces_is_taken_letter_by_letter(text: str) -> None:
    made = variants_of([Example(text)], 4, 0, None)
    assert made
    assert all(e.text != text and set(e.text) <= set(text) for e in made)


def test_a_text_of_one_letter_has_no_variant() -> None:
    assert [e for e in variants_of([Example("a")], 4, 0, None) if e.text == "a"] == []
