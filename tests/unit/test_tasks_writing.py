"""What models that write text are scored by: their own words against references, and what is no better than chance."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.examples import Encoding, Example, References
from converter.generate.settings import GenerationSettings
from converter.task import Judged
from converter.tasks.text2text_generation import TextToText
from converter.tasks.text_generation import SURPRISE, TextGeneration
from converter.tasks.translation import Translation

WORDS = ["the", "a", "cat", "dog", "sees", "finds", "house", "garden", "in", "near", "old", "new"]


class WordTokenizer:
    """A token a word; the last id ends texts."""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [WORDS.index(word) for word in text.split()]}

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return " ".join(WORDS[i] for i in ids if i < len(WORDS) or not skip_special_tokens)


def task_of(kind: Any) -> Any:
    made = kind(SimpleNamespace(vocab_size=50))
    made._tokenizer = WordTokenizer()
    return made


def wrote(text: str, references: tuple[str, ...], written: str) -> Judged:
    ids = np.array([*WordTokenizer()(written)["input_ids"], len(WORDS)], dtype=np.int64)
    encoding = Encoding({"input_ids": np.zeros(1, dtype=np.int64)})
    return Judged(Example(text, label=References(references)), encoding, {"written": ids})


ROWS = [
    wrote("x", ("the cat sees the old dog",), "the cat sees the old dog"),
    wrote(
        "y",
        ("a dog finds a new house in the garden", "the dog finds a house"),
        "a dog finds a new house near the garden",
    ),
]


@pytest.mark.parametrize(("kind", "first"), [(Translation, "bleu"), (TextToText, "rouge_l")])
def test_the_main_score_comes_first_and_the_others_are_beside_it(kind: Any, first: str) -> None:
    found = task_of(kind).metric(ROWS)
    assert next(iter(found)) == first == task_of(kind).metric_name
    assert set(found) == {"bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match"}
    assert found["exact_match"] == 0.5
    assert all(0 < v <= 1 for v in found.values())


def test_nothing_is_scored_where_there_is_no_reference() -> None:
    bare = [Judged(Example("x"), ROWS[0].encoding, {})]
    assert task_of(Translation).metric(bare) == {}
    assert task_of(Translation).metric_notes(bare) == []


def test_chance_is_what_copying_or_one_answer_to_all_would_score() -> None:
    task = task_of(Translation)
    text = "the cat sees the old dog in the garden"
    copied = [Example(text, label=References((text,))), Example("a dog", label=References(("the new house",)))]
    assert task.chance(copied[:1]) == 1
    assert 0.3 < task.chance(copied) < 1
    alike = [Example(f"x {i}", label=References((text,))) for i in range(5)]
    assert task.chance(alike) == 1
    apart = [Example("x", label=References((one,))) for one in ("the cat sees a dog", "in old new house near garden")]
    assert task.chance(apart) < 0.8


def test_perplexity_counts_every_token_alike_and_stands_before_the_scores_of_completions() -> None:
    task = task_of(TextGeneration)
    plain = Judged(Example("x", label=References(())), ROWS[0].encoding, {SURPRISE: np.log([2.0, 2.0, 2.0])})
    behind = Judged(ROWS[0].example, ROWS[0].encoding, {**ROWS[0].outputs, SURPRISE: np.log([8.0])})
    assert task.metric([plain]) == {"perplexity": pytest.approx(2)}
    found = task.metric([plain, behind])
    assert next(iter(found)) == "perplexity"
    assert found["perplexity"] == pytest.approx(2 ** (6 / 4))
    assert found["exact_match"] == 1
    assert task.chance([]) == 50


@pytest.mark.parametrize(
    ("own", "most"),
    [
        (GenerationSettings(), 2 * 6 + 16),
        (GenerationSettings(max_new_tokens=9), 9),
        (GenerationSettings(max_length=12), 11),
        (GenerationSettings(max_length=500, beams=4), 2 * 6 + 16),
    ],
)
def test_a_scored_text_ends_where_its_model_says_or_well_past_its_reference(own: GenerationSettings, most: int) -> None:
    task = task_of(Translation)
    task.settings = own
    found = task.scored_settings(ROWS[0].example, 5)
    assert (found.max_new_tokens, found.beams, found.sample) == (most, own.beams, False)


def test_a_model_that_draws_its_words_is_scored_without_drawing() -> None:
    task = task_of(TextGeneration)
    task.settings = GenerationSettings(sample=True, temperature=2.0, max_length=20)
    found = task.scored_settings(ROWS[0].example, 5)
    assert (found.sample, found.max_new_tokens) == (False, 15)
