"""What a model is judged by: fitting built-in text, an even sample of the user's, and edge cases always."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.data.probes import (
    EDGE,
    LEAST_TEXTS,
    builtin_examples,
    calibration_texts,
    choose_probes,
    even_sample,
    fit,
    is_edge,
)
from converter.examples import Example
from converter.registry import task_class
from tests.tiny import TASKS, make_tokenizer


def model(task: str = "text-classification", labels: tuple[str, ...] = ("no", "yes"), max_length: int = 64) -> Any:
    config = SimpleNamespace(num_labels=len(labels), id2label=dict(enumerate(labels)), problem_type=None)
    return SimpleNamespace(task=task_class(task)(config), tokenizer=make_tokenizer("bert"), max_length=max_length)


GIVEN = tuple(Example(f"text {i}", label=i % 2, where=f"f:{i}") for i in range(1000))


@pytest.mark.parametrize("task", TASKS)
def test_built_in_text_is_enough_for_a_percent_and_has_the_tasks_shape(task: str) -> None:
    found = builtin_examples(model(task))
    ordinary = [e for e in found if not is_edge(e)]
    if task == "question-answering":
        ordinary_wanted = 75
        assert all(e.pair is not None for e in found)
    else:
        ordinary_wanted = LEAST_TEXTS
    assert len(ordinary) >= ordinary_wanted
    assert len(set(ordinary)) == len(ordinary)
    assert all(e.label is None for e in found)


def test_edge_cases_hold_what_users_type() -> None:
    texts = {e.where.removeprefix(EDGE): e.text for e in builtin_examples(model()) if is_edge(e) and e.pair is None}
    assert texts["empty"] == ""
    assert "😍" in texts["emoji in a sentence"]
    assert len(texts["one character"]) == 1
    assert {"right to left", "Chinese", "accents", "one long word", "one word repeated"} <= set(texts)


@pytest.mark.parametrize("max_length", [32, 64, 128])
def test_long_texts_come_near_the_limit_and_beyond_it(max_length: int) -> None:
    given = model(max_length=max_length)
    found = {e.where.removeprefix(EDGE): e for e in builtin_examples(given) if is_edge(e) and e.pair is None}
    near = given.task.encode(given.tokenizer, found["near the limit"], max_length)
    assert not near.truncated
    assert max_length - 12 <= near.length <= max_length
    beyond = given.task.encode(given.tokenizer, found["beyond the limit"], max_length)
    assert beyond.truncated
    assert beyond.length == max_length


def test_a_model_that_reads_thousands_of_tokens_is_not_fed_them() -> None:
    found = builtin_examples(model(max_length=8192))
    assert not any("beyond" in e.where for e in found)
    given = model(max_length=8192)
    assert max(given.task.encode(given.tokenizer, e, 8192).length for e in found if e.pair is None) <= 512


def test_models_of_pairs_are_judged_by_pairs() -> None:
    found = builtin_examples(model(labels=("entailment", "neutral", "contradiction")))
    assert len(found) >= LEAST_TEXTS
    assert all(e.pair is not None for e in found)
    alone = [e for e in builtin_examples(model()) if not is_edge(e)]
    assert all(e.pair is None for e in alone)


def test_text_that_the_vocabulary_cannot_spell_is_left_out() -> None:
    class Latin:
        """Knows Latin letters, a token for five of them; all else is unknown."""

        unk_token_id = 0

        def __call__(self, text: str, **_: Any) -> Any:
            ids = [1] * (sum(c < "ɐ" for c in text) // 5) + [0] * sum(c >= "ɐ" for c in text)
            result = type("Made", (dict,), {})(input_ids=ids)
            result.encodings = [SimpleNamespace(offsets=[(0, len(text))])]
            return result

    given = SimpleNamespace(task=model().task, tokenizer=Latin(), max_length=64)
    ordinary = [e.text for e in builtin_examples(given) if not is_edge(e)]
    assert len(ordinary) > LEAST_TEXTS
    assert not any("이" in text or "и" in text for text in ordinary)
    assert any("ü" in text for text in ordinary)
    assert fit(Latin(), "и" * 10)[0] == 1.0


def test_the_sample_is_even_stable_and_in_order() -> None:
    found = even_sample(GIVEN, 100)
    assert [e.text for e in found] == [f"text {i}" for i in range(0, 1000, 10)]
    assert even_sample(GIVEN, 100) == found
    assert even_sample(GIVEN, 5000) == GIVEN
    assert len(even_sample(GIVEN, 399)) == 399
    assert even_sample((), 10) == ()


def test_the_texts_of_a_group_are_sampled_together() -> None:
    pairs = tuple(Example(f"{i}{side}", label=1.0, group=str(i)) for i in range(100) for side in "ab")
    found = even_sample(pairs, 50)
    assert len(found) == 50
    assert [e.text[-1] for e in found] == ["a", "b"] * 25
    assert all(a.group == b.group for a, b in zip(found[::2], found[1::2], strict=True))


def test_edge_cases_come_on_top_in_the_shape_of_the_given_text() -> None:
    builtin = builtin_examples(model())
    found = choose_probes(GIVEN, builtin, 100)
    assert len([e for e in found if not is_edge(e)]) == 100
    edges = [e for e in found if is_edge(e)]
    assert any(e.text == "" for e in edges)
    assert all(e.pair is None for e in edges)
    pairs = tuple(Example(f"a{i}", "b") for i in range(10))
    assert all(e.pair is not None for e in choose_probes(pairs, builtin, 100))
    assert [e for e in choose_probes((), builtin, 400) if not is_edge(e)] == [e for e in builtin if not is_edge(e)]


def test_calibration_has_no_edge_cases() -> None:
    builtin = builtin_examples(model())
    assert not any(is_edge(e) for e in calibration_texts((), builtin, 1000))
    assert calibration_texts(GIVEN, builtin, 10) == even_sample(GIVEN, 10)


@pytest.mark.parametrize("task", TASKS)
def test_a_tiny_model_answers_every_probe_and_not_all_alike(tiny: Callable[..., Path], task: str) -> None:
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference
    from converter.stage import SILENT

    source = load_source(str(tiny("bert", task)))
    reference = capture_reference(source, choose_probes((), builtin_examples(source), 40), SILENT)
    assert source.task.distinct(reference.decisions) > 1
    assert source.task.agreement(reference.decisions, reference.decisions) == 1.0
    texts = [source.task.describe(d, j.example) for d, j in zip(reference.decisions, reference.judged, strict=True)]
    assert all(isinstance(text, str) for text in texts)
