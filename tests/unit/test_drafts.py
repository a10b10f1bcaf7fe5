"""Answers drafted in a batch: what each text alone would get, and told apart where it would get another."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from converter.generate.drafts import alike, draft, stands
from converter.generate.forcing import forced_logits
from converter.generate.loop import generate
from tests.tiny_text import batch_for, make_text_model, pad_of, prompts, settings_of

NEW = 8


@cache
def parts(family: str) -> tuple[Any, Any, Any]:
    from converter.generate.modules import graph_specs, torch_graphs_run

    model = make_text_model(family)
    return model, torch_graphs_run(model), graph_specs(model, pad_id=pad_of(model))


def logits_at(family: str, text: list[int], answer: list[int]) -> np.ndarray:
    """Return what the model says, asked about one text alone, at each step of an answer."""
    model, run, specs = parts(family)
    feed = batch_for(model, [text])
    if model.config.is_encoder_decoder:
        start = [settings_of(model).start_id, *answer[:-1]]
        return forced_logits(run, specs, feed, np.array([start]))[0]
    ids = np.array([[*text, *answer[:-1]]])
    return forced_logits(run, specs, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0, -len(answer) :]


@pytest.mark.parametrize("family", ["gpt2", "marian"])
@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 1.8}, {"no_repeat_ngram": 2, "suppressed": (5, 6)}])
def test_what_is_drafted_beside_others_is_what_a_text_gets_alone_and_another_token_is_not(
    family: str, rules: dict[str, Any]
) -> None:
    model, run, specs = parts(family)
    settings = settings_of(model, max_new_tokens=NEW, **rules)
    texts = prompts(11, seed=3)
    answers = draft(run, specs, [np.array(t) for t in texts], settings)
    assert answers == [generate(run, specs, batch_for(model, [t]), settings).texts(settings)[0] for t in texts]

    def stand(text: list[int], answer: list[int]) -> bool:
        prompt = None if model.config.is_encoder_decoder else np.array(text)
        return stands(prompt, len(text), np.array(answer), logits_at(family, text, answer), settings)

    for text, answer in zip(texts, answers, strict=True):
        assert stand(text, answer)
        other = [*answer[:-1], (answer[-1] + 1) % 90 + 5]
        assert not stand(text, other)
        if len(answer) > 1:
            assert not stand(text, answer[:-1]), "it ends before it may"


def test_an_answer_that_a_longer_neighbour_cut_short_does_not_stand() -> None:
    model, _, _ = parts("gpt2")
    settings = replace(settings_of(model, max_new_tokens=NEW), context=12, eos_ids=())
    answer = [7] * 2
    logits = np.zeros((2, 100), dtype=np.float32)
    logits[:, 7] = 1
    assert not stands(np.arange(5, 10), 5, np.array(answer), logits, settings)
    assert stands(np.arange(5, 16), 11, np.array(answer), logits, settings)


def test_an_answer_that_goes_on_behind_a_token_that_ends_it_does_not_stand() -> None:
    """Another library may have written it: one that does not know of that token."""
    model, _, _ = parts("gpt2")
    logits = np.zeros((3, 100), dtype=np.float32)
    answer = np.array([5, 7, 2])
    logits[np.arange(3), answer] = 1
    settings = replace(settings_of(model, max_new_tokens=NEW), eos_ids=(2,))
    assert stands(np.arange(5, 10), 5, answer, logits, settings)
    assert not stands(np.arange(5, 10), 5, answer, logits, replace(settings, eos_ids=(2, 7)))


def test_texts_of_like_length_go_together_as_far_as_memory_allows() -> None:
    assert list(alike([5, 1, 3])) == [[1, 2, 0]]
    assert [len(rows) for rows in alike(range(1, 21))] == [8, 8, 4]
    assert list(alike([100, 200], vocabulary=1 << 17)) == [[0], [1]]
