"""The loop writes what transformers' own `generate` writes, and ends where it ends."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from converter.errors import SourceError, UsageError
from converter.generate.loop import Generated, generate
from converter.generate.settings import GenerationSettings
from converter.graphs import GraphSpec
from tests.tiny_text import (
    CAUSAL,
    ENCODER_DECODER,
    batch_for,
    continue_in_transformers,
    make_text_model,
    pad_of,
    padded,
    prompts,
    settings_of,
)

NEW = 12
Feed = Mapping[str, np.ndarray]
Run = Callable[[str, Feed], Feed]


@cache
def parts(family: str) -> tuple[Any, Run, dict[str, GraphSpec]]:
    from converter.generate.modules import graph_specs, torch_graphs_run

    model = make_text_model(family)
    return model, torch_graphs_run(model), graph_specs(model, pad_id=pad_of(model))


def written(family: str, texts: list[list[int]], **options: Any) -> list[list[int]]:
    model, run, specs = parts(family)
    settings = settings_of(model, **({"max_new_tokens": NEW} | options))
    return generate(run, specs, batch_for(model, texts), settings).texts(settings)


def wanted(family: str, texts: list[list[int]], eos_ids: tuple[int, ...] = (), **options: Any) -> list[list[int]]:
    model, _, _ = parts(family)
    feed = batch_for(model, texts)
    found = continue_in_transformers(model, feed, **({"max_new_tokens": NEW} | options))
    prompt = 1 if model.config.is_encoder_decoder else feed["input_ids"].shape[1]
    settings = settings_of(model, **({"eos_ids": eos_ids} if eos_ids else {}))
    return Generated(found, prompt).texts(settings)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", CAUSAL + ENCODER_DECODER)
def test_a_padded_batch_is_continued_as_by_transformers(family: str, beams: int) -> None:
    texts = prompts(6)
    found = written(family, texts, beams=beams)
    assert found == wanted(family, texts, num_beams=beams)
    assert len({tuple(t) for t in found}) > 3, "texts that are all alike prove nothing"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "t5", "marian"])
def test_a_batch_writes_what_each_of_its_texts_does_alone(family: str) -> None:
    texts = prompts(5, seed=1)
    assert written(family, texts) == [written(family, [text])[0] for text in texts]


THEIRS = {
    "beams": "num_beams",
    "eos_ids": "eos_token_id",
    "forced_eos_ids": "forced_eos_token_id",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "renormalize": "renormalize_logits",
    "suppressed": "suppress_tokens",
    "suppressed_first": "begin_suppress_tokens",
}
"""Names that transformers has for what the settings name otherwise."""


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram": 2},
        {"min_new_tokens": 7, "eos_ids": (2, 9)},
        {"max_new_tokens": None, "max_length": 25, "min_length": 24},
        {"suppressed": (5, 6, 7), "suppressed_first": (9,)},
        {"forced_eos_ids": (7,)},
        {"beams": 4, "length_penalty": 2.0, "early_stopping": True},
        {"beams": 4, "length_penalty": 0.3, "early_stopping": "never"},
        {"beams": 2, "no_repeat_ngram": 2, "min_new_tokens": 5},
        {"beams": 3, "renormalize": True, "suppressed": tuple(range(20, 70)), "eos_ids": (2, 9)},
    ],
    ids=", ".join,
)
@pytest.mark.parametrize("family", ["qwen3", "bart"])
def test_every_rule_means_what_it_means_in_transformers(family: str, rules: dict[str, Any]) -> None:
    texts = prompts(4, seed=2)
    theirs = {THEIRS.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in rules.items()}
    assert written(family, texts, **rules) == wanted(family, texts, rules.get("eos_ids", ()), **theirs)


def test_bad_words_are_never_written_be_they_one_token_or_two() -> None:
    texts = prompts(4, seed=3)
    free = written("qwen3", texts)
    words = [[free[0][0]], free[1][1:3]]
    found = written("qwen3", texts, bad_words=tuple(map(tuple, words)))
    assert found == wanted("qwen3", texts, bad_words_ids=words)
    assert found != free


def test_any_of_several_end_tokens_ends_a_text() -> None:
    texts = prompts(6)
    free = written("llama", texts)
    ends = (free[0][4], free[1][6])
    found = written("llama", texts, eos_ids=ends)
    assert found == wanted("llama", texts, ends, eos_token_id=list(ends))
    assert len(found[0]) <= 5, "the first text did not end at its fifth token"


def test_tokens_are_handed_out_as_they_are_chosen() -> None:
    model, run, specs = parts("llama")
    settings, steps = settings_of(model, max_new_tokens=6), []
    made = generate(run, specs, batch_for(model, prompts(3)), settings, lambda t: steps.append(t.copy()))
    assert np.array_equal(np.stack(steps, axis=1), made.sequences[:, made.prompt :])


def test_with_beams_tokens_are_handed_out_once_they_are_final() -> None:
    model, run, specs = parts("marian")
    settings, steps = settings_of(model, max_new_tokens=6, beams=3), []
    made = generate(run, specs, batch_for(model, prompts(3)), settings, steps.append)
    assert np.array_equal(np.stack(steps, axis=1), made.sequences[:, made.prompt :])


@pytest.mark.parametrize(
    "name", ["position off by one", "padding ignored", "keys before values", "cache cut", "end token ignored"]
)
def test_a_fault_in_what_is_fed_shows_in_what_is_written(name: str) -> None:
    """Each of these answers in silence: the comparison with transformers is what tells."""
    model, run, specs = parts("gpt2")

    def faulty(graph: str, feed: Feed) -> Feed:
        feed = dict(feed)
        past = [n for n in feed if n.startswith("past")]
        if name == "position off by one":
            feed["position_ids"] = feed["position_ids"] + 1
        if name == "padding ignored":
            feed["attention_mask"] = np.ones_like(feed["attention_mask"])
        if name == "keys before values":
            keys, values = [n for n in past if n.endswith("key")], [n for n in past if n.endswith("value")]
            feed |= dict(zip(past, [feed[n] for n in keys + values], strict=True))
        if name == "cache cut" and feed[past[0]].shape[2] > 8:
            feed |= {n: np.concatenate([np.zeros_like(feed[n][:, :, :-8]), feed[n][:, :, -8:]], axis=2) for n in past}
        return run(graph, feed)

    texts = prompts(6)
    right = wanted("gpt2", texts)
    ends = (right[0][3],)
    settings = settings_of(model, max_new_tokens=NEW, **({"eos_ids": ()} if name == "end token ignored" else {}))
    if name == "end token ignored":
        right = wanted("gpt2", texts, ends, eos_token_id=list(ends))
    assert generate(faulty, specs, batch_for(model, texts), settings).texts(settings) != right


@pytest.mark.parametrize("name", ["language dropped", "states cut", "cross keys of the wrong text"])
def test_a_fault_around_the_encoder_shows_in_what_is_written(name: str) -> None:
    model, run, specs = parts("mbart")

    def faulty(graph: str, feed: Feed) -> Feed:
        made = dict(run(graph, feed))
        if name == "states cut" and "last_hidden_state" in made:
            made["last_hidden_state"][:, 3:] = 0
        if name == "cross keys of the wrong text":
            made = {n: v[::-1] if ".encoder." in n else v for n, v in made.items()}
        return made

    texts = prompts(6)
    right = wanted("mbart", texts, forced_bos_token_id=9)
    settings = settings_of(model, max_new_tokens=NEW, forced_bos_id=None if name == "language dropped" else 9)
    assert generate(run, specs, batch_for(model, texts), replace(settings, forced_bos_id=9)).texts(settings) == right
    assert generate(faulty, specs, batch_for(model, texts), settings).texts(settings) != right


def test_a_prompt_must_leave_room_for_an_answer() -> None:
    assert len(written("gpt2", [list(range(5, 95))], context=96, max_new_tokens=50)[0]) == 7
    with pytest.raises(UsageError, match="97 tokens"):
        written("gpt2", [[5] * 97], context=96)
    with pytest.raises(UsageError, match="97 tokens; the model takes 96"):
        written("bart", [[5] * 97], context=96)
    with pytest.raises(UsageError, match="leaves no room"):
        written("gpt2", [[5] * 10], max_length=10, max_new_tokens=None)


def test_padding_takes_no_positions() -> None:
    """A short text beside a long one may be as long an answer as the model's positions allow the long one."""
    found = written("gpt2", [[5, 6], list(range(5, 90))], context=96, max_new_tokens=50, eos_ids=())
    assert [len(t) for t in found] == [12, 12]


@pytest.mark.parametrize("texts", [[[]], [[5, 6], []]], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_text_without_a_token_is_refused(family: str, texts: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="without a token"):
        written(family, texts)


def test_a_causal_batch_padded_on_the_right_is_no_batch() -> None:
    model, run, specs = parts("gpt2")
    with pytest.raises(ValueError, match="on the left"):
        generate(run, specs, padded([[5, 6], [5]], "right", 0), settings_of(model, max_new_tokens=1))


def test_a_model_without_keys_and_values_is_refused_by_name() -> None:
    import transformers

    from converter.generate.modules import graph_specs

    config = transformers.MambaConfig(vocab_size=60, hidden_size=16, state_size=4, num_hidden_layers=2)
    with pytest.raises(SourceError, match="MambaForCausalLM: it keeps something else than keys and values"):
        graph_specs(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_an_answer_needs_a_token_to_start_with() -> None:
    with pytest.raises(UsageError, match="start with"):
        written("bart", [[5, 6]], start_id=None)


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"beams": 0},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": -1.0},
        {"sample": True, "beams": 2},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        GenerationSettings(**values)
