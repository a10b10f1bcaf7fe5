"""Token classification: one tag a word, from its first token, whatever the tokenizer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.data.encode import encode_words
from converter.errors import DataError
from converter.examples import Encoding, Example
from converter.registry import task_class
from converter.task import Judged, Task
from converter.tasks.token_classification import first_tokens
from tests.tiny import FAMILIES, make_tokenizer

TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def task(labels: tuple[str, ...] = TAGS) -> Task:
    config = SimpleNamespace(num_labels=len(labels), id2label=dict(enumerate(labels)))
    return task_class("token-classification")(config)


def judged(example: Example, word_ids: tuple[int | None, ...], classes: list[int]) -> Judged:
    logits = np.eye(len(TAGS), dtype=np.float32)[classes]
    return Judged(
        example, Encoding({"input_ids": np.zeros(len(classes), dtype=np.int64)}, word_ids), {"logits": logits}
    )


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {family: make_tokenizer(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_encoded_as_the_text_that_a_user_types(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    words = ("Anna", "Miller", "moved", "from", "New", "York", "!", "3.5", "café")
    found = encode_words(tokenizer, Example(" ".join(words), words=words), 200)
    assert found.inputs["input_ids"].tolist() == tokenizer(" ".join(words))["input_ids"]
    assert sorted(first_tokens(found)) == list(range(len(words)))
    text = " ".join(words)
    for word, token in first_tokens(found).items():
        start, end = found.offsets[token]
        assert words[word].startswith(text[start:end].strip())
    assert found.word_ids[0] is None
    assert found.word_ids[-1] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_words_beyond_the_limit_have_no_token(tokenizers: dict[str, Any], family: str) -> None:
    words = ("word",) * 40
    found = encode_words(tokenizers[family], Example(" ".join(words), words=words), 12)
    assert found.length == 12
    assert found.truncated
    assert len(first_tokens(found)) < 40


def test_the_first_token_of_a_word_decides_and_lost_words_are_outside() -> None:
    example = Example("Anna Miller left town", words=("Anna", "Miller", "left", "town"))
    found = judged(example, (None, 0, 0, 1, None), [3, 1, 0, 2, 3])
    assert task().decisions([found]) == [("B-PER", "I-PER", "O", "O")]
    assert task().describe(("B-PER", "I-PER", "O", "O"), example) == "PER: Anna Miller"
    raw = judged(Example("Anna left"), (None, 0, 1, None), [0, 1, 0, 0])
    assert task().decisions([raw]) == [("B-PER", "O")]


def test_tags_agree_by_share() -> None:
    given = task()
    assert given.agreement([("O", "B-PER")], [("O", "O")]) == 0.5
    assert given.agreement([("O", "B-PER")], [("O", "B-PER")]) == 1.0
    assert given.same((), ()) == 1.0
    with pytest.raises(ValueError, match="2 words"):
        given.same(("O", "O"), ("O",))
    assert given.distinct([("O", "O"), ("O",)]) == 1
    assert given.distinct([("O", "B-PER"), ("O",)]) == 2


def test_entities_are_scored_whole_and_other_tags_one_by_one() -> None:
    example = Example("a b c", words=("a", "b", "c"), label=("B-PER", "I-PER", "O"))
    right, wrong = judged(example, (0, 1, 2), [1, 2, 0]), judged(example, (0, 1, 2), [1, 0, 0])
    assert task().metric([right])["f1"] == 1.0
    assert task().metric([wrong]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": pytest.approx(2 / 3)}
    assert task().metric_name == "f1"
    assert task(("NOUN", "VERB")).metric_name == "accuracy"


def test_chance_is_the_best_constant_tag() -> None:
    examples = [Example("a b", words=("a", "b"), label=("B-PER", "O")), Example("c", words=("c",), label=("B-PER",))]
    # B-PER for every word: right 2, found 3, wanted 2.
    assert task().chance(examples) == pytest.approx(0.8)
    speech = [Example("a b c", words=("a", "b", "c"), label=("NOUN", "NOUN", "VERB"))]
    assert task(("NOUN", "VERB")).chance(speech) == pytest.approx(2 / 3)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(DataError, match="f:1"):
        task().check_labels([Example("a", words=("a",), label=("B-PRE",), where="f:1")])
    task().check_labels([Example("a", words=("a",), label=("B-PER",))])


def test_soft_loss_leaves_padding_out() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    loss = task().soft_loss({"logits": student}, {"logits": teacher}, mask, 2.0)
    padded = student.clone()
    padded[1, 2:] += 100.0
    assert torch.equal(task().soft_loss({"logits": padded}, {"logits": teacher}, mask, 2.0), loss)
    padded[1, 1] += torch.tensor([5.0, 0.0, 0.0, 0.0])
    assert not torch.equal(task().soft_loss({"logits": padded}, {"logits": teacher}, mask, 2.0), loss)


def test_hard_loss_counts_first_tokens_of_labelled_words_only() -> None:
    example = Example("Anna left", words=("Anna", "left"), label=("B-PER", "O"))
    encoding = Encoding({"input_ids": np.zeros(5, dtype=np.int64)}, (None, 0, 0, 1, None))
    logits = torch.zeros(1, 6, 4, requires_grad=True)
    loss = task().hard_loss({"logits": logits}, [(example, encoding)])
    assert loss is not None
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=-1)[0].nonzero().flatten().tolist() == [1, 3]
    assert int(logits.grad[0, 1].argmin()) == TAGS.index("B-PER")
    assert task().hard_loss({"logits": logits}, [(Example("a"), encoding)]) is None


def test_a_tiny_model_tags_every_word(tiny: Callable[..., Path]) -> None:
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference
    from converter.stage import SILENT

    model = load_source(str(tiny("bert", "token-classification")))
    words = ("Anna", "moved", "to", "Berlin")
    example = Example(" ".join(words), words=words, label=("O",) * 4)
    reference = capture_reference(model, [example], SILENT)
    assert len(reference.decisions[0]) == 4
    assert set(reference.decisions[0]) <= set(model.task.labels)
