"""BLEU, chrF, ROUGE and exact match: numbers of their own libraries, all 0..1, and nothing downloaded."""

import socket

import pytest

from converter.scoring.references import (
    bleu,
    bleu_signature,
    chrf,
    exact,
    reference_score,
    reference_scores,
    rouge,
)

RIGHT = [["the cat sat on the mat"], ["there is a big world out there", "a big world is out there"]]
FOUND = ["the cat sat on a mat", "there is a big world"]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    import sacrebleu

    by_place = [[r[0] for r in RIGHT], [r[1] if len(r) > 1 else None for r in RIGHT]]
    assert bleu(RIGHT, FOUND) == sacrebleu.corpus_bleu(FOUND, by_place).score / 100
    assert chrf(RIGHT, FOUND) == sacrebleu.corpus_chrf(FOUND, by_place).score / 100
    assert 0 < bleu(RIGHT, FOUND) < 1


def test_rouge_is_the_librarys_for_english_and_reads_other_scripts_too() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"]).score_multi(RIGHT[1], FOUND[1])
    ours = rouge(RIGHT[1:], FOUND[1:])
    assert list(ours.values()) == [theirs[n].fmeasure for n in ("rouge1", "rouge2", "rougeL")]
    assert rouge([["Größe zählt"]], ["Größe zählt"])["rouge_1"] == 1
    assert RougeScorer(["rouge1"]).score("привет мир", "привет мир")["rouge1"].fmeasure == 0
    assert rouge([["привет мир"]], ["привет мир"])["rouge_1"] == 1


def test_equal_texts_have_every_score_and_other_texts_none() -> None:
    text = "the quick brown fox jumps over it"
    assert set(reference_scores([[text]], [text]).values()) == {1.0}
    assert max(reference_scores([[text]], ["zzz qqq"]).values()) < 0.05


def test_exact_match_takes_any_reference_but_for_white_space_at_the_ends() -> None:
    assert exact([["a", "b"], ["c"]], [" b\n", "C"]) == 0.5


def test_languages_without_spaces_are_split_by_character() -> None:
    assert bleu([["这部电影非常好看我很喜欢"]], ["这部电影非常好看我不喜欢"], "zh") > 0.5
    assert bleu([["这部电影非常好看我很喜欢"]], ["这部电影非常好看我不喜欢"]) == 0
    assert "tok:zh" in bleu_signature("zh")
    assert "tok:13a" in bleu_signature("de")


def test_a_score_of_nothing_is_an_error() -> None:
    for wanted, found in (([], []), ([[]], ["a"]), ([["a"]], ["a", "b"])):
        with pytest.raises(ValueError, match="text"):
            reference_scores(wanted, found)


def test_one_score_alone_is_the_same_as_among_all() -> None:
    every = reference_scores(RIGHT, FOUND)
    assert all(reference_score(n, RIGHT, FOUND) == every[n] for n in ("bleu", "rouge_1", "rouge_2", "rouge_l"))


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"the network is asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert reference_scores(RIGHT, FOUND, "ja")["rouge_l"] > 0
