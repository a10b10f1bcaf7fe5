"""Samples end to end: trained as a user would have them trained, then exported by the recipes that come with them."""

from pathlib import Path

import pytest

import sample_models
from converter import convert
from converter.data.files import read_examples
from converter.model_folder.load import load_source
from converter.model_folder.samples import resolve_data, resolve_model
from converter.recipe import load_recipe_table
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.validate.checks import Status

EVAL = {"sentiment": "eval.tsv", "entities": "eval.jsonl", "questions": "eval.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVAL))
def test_a_trained_sample_knows_its_task(name: str) -> None:
    source = load_source(resolve_model(f"sample:{name}", SILENT))
    held_out = read_examples(resolve_data(Path(f"sample:{name}/{EVAL[name]}"), SILENT), source.task)
    reference = capture_reference(source, held_out, SILENT)
    assert reference.chance is not None
    assert reference.chance < 0.6
    assert reference.metric[source.task.metric_name] > 0.9


WRITERS = {"translator": ("eval.tsv", 0.6, True), "storyteller": ("eval.txt", 4.0, False)}
"""The evaluation file, and what its main metric must pass: BLEU from below, perplexity from above."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_trained_writer_knows_its_task(name: str) -> None:
    file, limit, above = WRITERS[name]
    source = load_source(resolve_model(f"sample:{name}", SILENT))
    held_out = read_examples(resolve_data(Path(f"sample:{name}/{file}"), SILENT), source.task)
    reference = capture_reference(source, held_out[:2], SILENT, held_out[:60])
    found = reference.metric[source.task.metric_name]
    assert found > limit if above else found < limit


@pytest.mark.slow
def test_sentiment_reads_text_that_no_grammar_made() -> None:
    source = load_source(resolve_model("sample:sentiment", SILENT))
    texts = {
        "a wonderful story": 1,
        "what a boring plot": 0,
        "the hotel was great , i loved it": 1,
        "i hated the food": 0,
    }
    import torch

    for text, label in texts.items():
        fed = source.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            assert int(source.module(**fed).logits.argmax()) == label, text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(sample_models.recipes()))
def test_a_sample_recipe_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    table = load_recipe_table(Path(f"sample:{name}"))
    if "model" not in table:  # a recipe for an intent: model and text are the user's
        table |= {"model": "sample:sentiment", "calibration": "sample:sentiment/train.tsv"}
    result = convert(table, tmp_path / "out")
    assert [(t.target, t.status, t.error) for t in result.targets if t.status is Status.FAIL] == []
    assert result.exit_code == 0
    for made in result.targets:
        assert made.folder is not None
        assert (tmp_path / "out" / made.folder / "manifest.json").is_file()
