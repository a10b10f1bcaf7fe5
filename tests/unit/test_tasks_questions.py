"""Question answering: spans of the context, by characters."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.data.encode import encode_question, question_stride
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
def test_a_long_context_is_read_in_windows_that_all_hold_the_question(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    long = CONTEXT * 20
    windows = task().windows(tokenizer, Example(QUESTION, long), 40)
    question = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    covered: set[int] = set()
    for window in windows:
        found = encode_question(tokenizer, window, 40)
        assert found.length == 40 or window is windows[-1]
        assert not found.truncated
        kept = [int(i) for i, s in zip(found.inputs["input_ids"], found.sequence_ids, strict=True) if s == 0]
        assert kept == question
        own = [o for o, s in zip(found.offsets, found.sequence_ids, strict=True) if s == 1]
        overlap = covered & {i for begin, end in own for i in range(begin, end)}
        assert overlap or window.window == 0
        covered |= {i for begin, end in own for i in range(begin, end)}
    assert {i for i, c in enumerate(long) if not c.isspace()} <= covered
    # A question that is too long by itself is cut, and said to be: something is answered, nothing raised.
    cut = encode_question(tokenizer, Example(QUESTION * 40, CONTEXT), 40)
    assert cut.length <= 40
    assert cut.truncated


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


# Windows


def of_windows(windows: tuple[Example, ...], tokenizer: Any, seed: int, max_length: int) -> list[Judged]:
    rng = np.random.default_rng(seed)
    made = []
    for window in windows:
        encoding = encode_question(tokenizer, window, max_length)
        outputs = {n: rng.normal(0, 2, encoding.length).astype(np.float32) for n in ("start_logits", "end_logits")}
        for logits in outputs.values():
            logits[0] += seed % 3 * 3
        made.append(Judged(window, encoding, outputs))
    return made


def as_the_pipeline_answers(judged: list[Judged]) -> tuple[str, bool]:
    """Answer as transformers 4.57 does with `handle_impossible_answer=True, align_to_words=False`, in loops."""
    answers: dict[str, float] = {}
    texts: dict[str, str] = {}
    null = 1e6
    for one in judged:
        kept = [0] + [i for i, s in enumerate(one.encoding.sequence_ids) if s == 1]
        start, end = (np.exp(one.outputs[n][kept].astype(np.float64)) for n in ("start_logits", "end_logits"))
        start, end = start / start.sum(), end / end.sum()
        null = min(null, start[0] * end[0])
        spans = [(start[i] * end[k], i, k) for i in range(1, len(kept)) for k in range(i, min(len(kept), i + 15))]
        score, i, k = max(spans)
        offsets = one.encoding.offsets
        text = (one.example.pair or "")[offsets[kept[i]][0] : offsets[kept[k]][1]].strip()
        texts.setdefault(text.lower(), text)
        answers[text.lower()] = answers.get(text.lower(), 0.0) + score
    best = max(answers, key=lambda text: answers[text])
    return texts[best], null > answers[best]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_windows_are_answered_as_transformers_pipeline_does(tokenizers: dict[str, Any], family: str) -> None:
    nulls = 0
    for seed in range(30):
        example = Example(QUESTION, CONTEXT * (1 + seed % 4))
        made = of_windows(task().windows(tokenizers[family], example, 40), tokenizers[family], seed, 40)
        text, null = as_the_pipeline_answers(made)
        assert [(d.text, d.null) for d in task().decisions(made)] == [(text, null)] * len(made)
        nulls += null
    assert 0 < nulls < 30


def test_the_same_words_in_two_windows_count_together_and_one_null_window_is_not_enough(
    tokenizers: dict[str, Any],
) -> None:
    tokenizer = tokenizers["bert"]
    windows = task().windows(tokenizer, Example(QUESTION, "the " * 50 + "lake"), 40)
    encodings = [encode_question(tokenizer, w, 40) for w in windows]
    last = encodings[-1].length - 2
    places = [*([6] * (len(windows) - 1)), last]
    made = [judged(e, w, at, at) for e, w, at in zip(encodings, windows, places, strict=True)]
    for logits in made[-1].outputs.values():
        logits[last] += 1.0
    assert [task().decisions([one])[0].text for one in made] == ["the"] * (len(made) - 1) + ["lake"]
    assert {d.text for d in task().decisions(made)} == {"the"}  # less likely in each window, likelier in all
    made[0] = judged(encodings[0], windows[0], 6, 6, null=9.0)
    assert task().decisions(made[:1])[0].null
    assert not task().decisions(made)[0].null


def test_the_metric_is_of_texts_not_of_windows(tokenizers: dict[str, Any]) -> None:
    long = "x " * 60 + CONTEXT
    example = Example(QUESTION, long, label=Answer(("Anna Miller",), (120,)))
    windows = task().windows(tokenizers["bert"], example, 40)
    made = []
    for window in windows:
        encoding = encode_question(tokenizers["bert"], window, 40)
        first, last = token_span(example.label, encoding)  # type: ignore[arg-type]
        made.append(judged(encoding, window, first or 9, last or 9, null=-9.0))
        if not first:
            made[-1].outputs["start_logits"][:] = 0  # type: ignore[index]
    assert task().metric(made) == {"f1": 1.0, "exact_match": 1.0}
    short = Example(QUESTION, "nobody", label=Answer(("nobody",), (0,)))
    encoding = encode_question(tokenizers["bert"], short, 40)
    wrong = Judged(short, encoding, {n: -np.ones(encoding.length, dtype=np.float32) for n in made[0].outputs})
    assert task().metric([*made, wrong])["f1"] in {0.5, 1.0}
    none = Example("?", "x", label=Answer((), ()))
    assert "no question" in task().metric_notes([judged(encode_question(tokenizers["bert"], none, 9), none, 0, 0)])[0]


def test_a_long_question_leaves_windows_that_still_move() -> None:
    assert question_stride(384, 360) == 128
    assert question_stride(64, 40) == 20
    assert question_stride(64, 61) == 32
    assert all(question_stride(64, room) < room for room in range(1, 64))
