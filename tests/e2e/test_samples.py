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
from sample_models import storyteller, translator
from sample_models._writers import Course

EVAL = {"sentiment": "eval.tsv", "entities": "eval.jsonl", "questions": "eval.jsonl"}
USERS_TEXT = 6000
"""Rows of text that somebody gives to a recipe for an intent: their epochs are longer than the longest training."""


@pytest.fixture(scope="module")
def users_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = resolve_data(Path("sample:sentiment/train.tsv"), SILENT).read_text("utf-8").splitlines(keepends=True)
    text = tmp_path_factory.mktemp("user") / "train.tsv"
    text.write_text("".join(whole[: 1 + USERS_TEXT]), "utf-8")
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVAL))
def test_a_trained_sample_knows_its_task(name: str) -> None:
    source = load_source(resolve_model(f"sample:{name}", SILENT))
    held_out = read_examples(resolve_data(Path(f"sample:{name}/{EVAL[name]}"), SILENT), source.task)
    reference = capture_reference(source, held_out, SILENT)
    assert reference.chance is not None
    assert reference.chance < 0.6
    assert reference.metric[source.task.metric_name] > 0.9


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


WRITERS = {
    "translator": (translator, translator.Size(2, 64, Course(steps=300, batch=32, rate=2e-3, warm_up=50))),
    "storyteller": (storyteller, storyteller.Size(2, 64, Course(steps=150, batch=8, rate=3e-3, warm_up=20))),
}
"""The samples that write text, small and taught for seconds: `benchmarks/generation.py` measures the whole ones."""


@pytest.fixture
def small_writers(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taught once in this run: its recipes start from the same model."""
    for module, size in WRITERS.values():
        monkeypatch.setattr(module, "WHOLE", size)
        monkeypatch.setattr(module, "N_HELD_OUT", 40)
    monkeypatch.setattr(translator, "LEAST_BLEU", 0.15)
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(run_folder / "small-writers"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_small_writer_is_taught_exported_and_scored(name: str, small_writers: None, tmp_path: Path) -> None:
    table = load_recipe_table(Path(f"sample:{name}")) | {"quantize": {"cpu-int8": "none"}}
    (made,) = convert(table, tmp_path / "out").targets
    assert made.evaluation is not None, made.error
    checks = {c.name: c for c in made.evaluation.checks}
    assert {n: checks[n].status for n in ("metric", "generation", "stops", "perplexity")} == dict.fromkeys(
        ("metric", "generation", "stops", "perplexity"), Status.PASS
    )
    assert made.evaluation.metric == pytest.approx(made.evaluation.source_metric, rel=1e-3)


SMALLER = {
    "translator-tiny": ({"decoder": 1}, {"texts": 200, "steps": 20}),
    "storyteller-tiny": ({"keep": 1}, {"steps": 20}),
}
"""What the recipes of smaller writers ask of two layers, and the few steps that they are taught for here."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLER))
def test_a_small_writer_gets_smaller_by_its_recipe(name: str, small_writers: None, tmp_path: Path) -> None:
    table = load_recipe_table(Path(f"sample:{name}"))
    stages = [stage | less for stage, less in zip(table["compress"], SMALLER[name], strict=True)]
    result = convert(table | {"compress": stages}, tmp_path / "out")
    (made,) = result.targets
    assert made.evaluation is not None, made.error
    dropped, taught = result.compress_records
    assert dropped.size_bytes_made < 0.9 * dropped.size_bytes_given
    assert taught.facts["steps"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(sample_models.recipes()) - set(WRITERS) - set(SMALLER)))
def test_a_sample_recipe_runs_as_it_stands(name: str, users_text: Path, tmp_path: Path) -> None:
    table = load_recipe_table(Path(f"sample:{name}"))
    if "model" not in table:  # a recipe for an intent: model and text are the user's
        table |= {"model": "sample:sentiment", "calibration": str(users_text)}
    result = convert(table, tmp_path / "out")
    assert [(t.target, t.status, t.error) for t in result.targets if t.status is Status.FAIL] == []
    assert result.exit_code == 0
    for made in result.targets:
        assert made.folder is not None
        assert (tmp_path / "out" / made.folder / "manifest.json").is_file()
