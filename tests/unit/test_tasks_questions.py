"""Question answering: spans of the context, by characters."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.data.encode import encode_question
from converter.examples import Answer, Encoding, Example
from converter.registry import task_class
from converter.task import Judged, Task
from converter.tasks.question_answering import MAX_ANSWER_TOKENS, Span, token_span
from tests.tiny import FAMILIES, make_tokenizer

CONTEXT = "Anna Miller moved from Berlin to New York in 2019"
QUESTION = "Who moved?"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {family: make_tokenizer(family) for family in FAMILIES}


def task() -> Task:
    return task_class("question-answering")(SimpleNamespace())


def judged(encoding: Encoding, example: Example, start: int, end: int, null: float = 0.0) -> Judged:
    outputs = {name: np.zeros(encoding.length, dtype=np.float32) for name in ("start_logits", "end_logits")}
    outputs["start_logits"][[0, start]] = null, 5.0
    outputs["end_logits"][[0, end]] = null, 5.0
    return Judged(example, encoding, outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gold_tokens_give_the_gold_text_back(tokenizers: dict[str, Any], family: str) -> None:
    for text in ("Anna Miller", "Berlin", "New York", "2019", CONTEXT):
        example = Example(QUESTION, CONTEXT, label=Answer((text,), (CONTEXT.index(text),)))
        encoding = encode_question(tokenizers[family], example, 200)
        assert isinstance(example.label, Answer)
        first, last = token_span(example.label, encoding)
        start = CONTEXT.index(text)
        if last - first < MAX_ANSWER_TOKENS:
            assert task().decisions([judged(encoding, example, first, last)]) == [
                Span(text, start, start + len(text), null=False)
            ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_context_is_cut_and_the_question_kept(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    found = encode_question(tokenizer, Example(QUESTION, CONTEXT * 20), 40)
    assert found.length == 40
    assert found.truncated
    question = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    kept = [int(i) for i, s in zip(found.inputs["input_ids"], found.sequence_ids, strict=True) if s == 0]
    assert kept == question
    # A question that is too long by itself is cut too: something is answered, nothing raised.
    assert encode_question(tokenizer, Example(QUESTION * 40, CONTEXT), 40).length <= 40


def test_an_answer_lies_in_the_context_in_order_and_is_not_long(tokenizers: dict[str, Any]) -> None:
    example = Example("one two three", "four five six " * 30)
    encoding = encode_question(tokenizers["bert"], example, 400)
    tokens = [i for i, s in enumerate(encoding.sequence_ids) if s == 1]
    swapped = judged(encoding, example, tokens[5], tokens[2])
    span = task().decisions([swapped])[0]
    assert 0 <= span.start < span.end
    wide = judged(encoding, example, tokens[0], tokens[60])
    long = task().decisions([wide])[0]
    covered = [t for t in tokens if encoding.offsets[t][0] < long.end and encoding.offsets[t][1] > long.start]
    assert len(covered) <= MAX_ANSWER_TOKENS
    in_question = judged(encoding, example, 1, 2)
    assert task().decisions([in_question])[0].text in example.pair  # type: ignore[operator]


def test_no_context_gives_no_answer(tokenizers: dict[str, Any]) -> None:
    example = Example("Who?", "")
    encoding = encode_question(tokenizers["bert"], example, 40)
    span = task().decisions([judged(encoding, example, 1, 1)])[0]
    assert span.null
    assert span.text == ""
    assert task().describe(span, example) == "no answer"


def test_two_times_no_answer_is_the_same_answer() -> None:
    a, b, c = Span("x", 0, 1, null=True), Span("y", 2, 3, null=True), Span("x", 0, 1, null=False)
    assert task().same(a, b) == 1.0
    assert task().same(a, c) == 0.0
    assert task().same(c, Span("x", 5, 6, null=False)) == 0.0  # the same words elsewhere
    assert task().distinct([a, b]) == 1
    assert task().distinct([a, c]) == 2


def test_no_answer_counts_only_where_the_data_has_unanswerable_questions(tokenizers: dict[str, Any]) -> None:
    encoding = encode_question(tokenizers["bert"], Example(QUESTION, CONTEXT), 200)
    gold = Example(QUESTION, CONTEXT, label=Answer(("Anna Miller",), (0,)))
    first, last = token_span(gold.label, encoding)  # type: ignore[arg-type]
    unsure = judged(encoding, gold, first, last, null=9.0)
    assert task().metric([unsure]) == {"f1": 1.0, "exact_match": 1.0}
    none = judged(encoding, Example(QUESTION, CONTEXT, label=Answer((), ())), first, last, null=9.0)
    assert task().metric([unsure, none]) == {"f1": 0.5, "exact_match": 0.5}
    assert task().metric([judged(encoding, Example(QUESTION, CONTEXT), first, last)]) == {}


def test_chance_is_the_whole_context_or_no_answer() -> None:
    examples = [Example("?", "red blue", label=Answer(("red",), (0,))), Example("?", "green", label=Answer((), ()))]
    assert task().chance(examples[:1]) == pytest.approx(2 / 3)
    assert task().chance(examples) == 0.5


def test_an_answer_outside_the_window_is_the_first_token(tokenizers: dict[str, Any]) -> None:
    long = CONTEXT + " x" * 100 + " 1903"
    example = Example("When?", long, label=Answer(("1903",), (long.index("1903"),)))
    assert token_span(example.label, encode_question(tokenizers["bert"], example, 40)) == (0, 0)  # type: ignore[arg-type]
    assert token_span(Answer((), ()), encode_question(tokenizers["bert"], example, 40)) == (0, 0)


def test_losses_leave_padding_out_and_fall_towards_the_gold(tokenizers: dict[str, Any]) -> None:
    torch.manual_seed(0)
    example = Example(QUESTION, CONTEXT, label=Answer(("Berlin",), (CONTEXT.index("Berlin"),)))
    encoding = encode_question(tokenizers["bert"], example, 200)
    length = encoding.length + 5
    mask = torch.ones(1, length)
    mask[0, encoding.length :] = 0
    teacher = {n: torch.randn(1, length) for n in ("start_logits", "end_logits")}
    padded = {n: v + 50 * (1 - mask) for n, v in teacher.items()}
    assert float(task().soft_loss(padded, teacher, mask, 2.0)) == pytest.approx(0.0, abs=1e-6)
    other = {n: v + torch.randn_like(v) for n, v in teacher.items()}
    assert float(task().soft_loss(other, teacher, mask, 2.0)) > 0.01

    logits = torch.zeros(1, length, requires_grad=True)
    loss = task().hard_loss({"start_logits": logits, "end_logits": torch.zeros(1, length)}, [(example, encoding)])
    assert loss is not None
    loss.backward()
    assert logits.grad is not None
    assert int(logits.grad[0].argmin()) == token_span(example.label, encoding)[0]  # type: ignore[arg-type]
    assert bool((logits.grad[0, encoding.length :] == 0).all())
    assert task().hard_loss(teacher, [(Example(QUESTION, CONTEXT), encoding)]) is None
