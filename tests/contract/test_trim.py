"""What vocabulary trimming holds: tokenizer and embedding cut together, kept text answered alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.binding import bind
from converter.errors import DataError, RecipeError, SourceError, StageFailed, UsageError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.precision import Limits
from converter.reference import capture_reference, encode_probes, run_probe, torch_run
from converter.stage import SILENT, Context, run_stage
from converter.surgery.tokenizer import Ancestors, cut_table, open_table, pieces_of, table_of
from converter.surgery.vocabulary import in_vocabulary_of
from converter.trim.vocabulary import VocabularyTrimming
from converter.validate.compare import compare
from converter.validate.vocabulary import as_seen_by
from tests.tiny import SENTENCES

ROUNDING = 2e-6
"""What one processor's products round otherwise where the same numbers lie elsewhere in memory."""
KEPT = tuple(Example(t) for t in SENTENCES[:6])
OTHER = tuple(Example(t) for t in SENTENCES[10:])
KINDS = ("bert", "roberta", "albert", "xlm-roberta", "mpnet", "modernbert", "deberta-v2", "electra", "distilbert")


def trimmed(model: TorchModel, tmp_path: Path, calibration: tuple[Example, ...] = KEPT, **options: Any) -> TorchModel:
    made, _ = run_stage(VocabularyTrimming(**options), model, Context(work=tmp_path, calibration=calibration))
    return made


def answers(model: TorchModel, examples: tuple[Example, ...]) -> list[dict[str, Any]]:
    run = torch_run(model)
    return [dict(run_probe(model, p, run).outputs) for p in encode_probes(model, examples)]


@pytest.mark.parametrize("family", KINDS)
def test_kept_text_keeps_its_tokens_and_its_answers(tiny: Callable[..., Path], tmp_path: Path, family: str) -> None:
    source = load_source(str(tiny(family)))
    made = trimmed(source, tmp_path)
    n_tokens = made.module.get_input_embeddings().weight.shape[0]
    assert n_tokens == made.config.vocab_size == len(made.tokenizer) < len(source.tokenizer)
    for text in SENTENCES[:6]:
        assert made.tokenizer.tokenize(text) == source.tokenizer.tokenize(text)
    for wanted, found in zip(answers(source, KEPT), answers(made, KEPT), strict=True):
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_a_trimmed_model_opens_again_from_its_folder_alone(
    tiny: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    made = trimmed(load_source(str(tiny(family))), tmp_path)
    save_model(made, tmp_path / "saved")
    again = load_source(str(tmp_path / "saved"))
    assert len(again.tokenizer) == len(made.tokenizer)
    assert again.tokenizer.pad_token_id == again.config.pad_token_id == made.tokenizer.pad_token_id
    for wanted, found in zip(answers(made, KEPT + OTHER), answers(again, KEPT + OTHER), strict=True):
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_ids_of_the_configuration_are_those_of_the_trimmed_tokenizer(
    tiny: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    source = load_source(str(tiny(family)))
    made = trimmed(source, tmp_path)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        old = getattr(source.config, name)
        if old is not None:
            token = source.tokenizer.convert_ids_to_tokens(old)
            assert getattr(made.config, name) == made.tokenizer.convert_tokens_to_ids(token)
    assert source.config.vocab_size == source.module.get_input_embeddings().weight.shape[0]  # the source is untouched


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "modernbert"])
def test_a_tied_output_layer_is_cut_as_well_and_stays_tied(
    tiny: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    source = load_source(str(tiny(family, "fill-mask")))
    made = trimmed(source, tmp_path)
    assert made.source_ids is not None
    assert made.module.get_output_embeddings().weight is made.module.get_input_embeddings().weight
    for wanted, found in zip(answers(source, KEPT), answers(made, KEPT), strict=True):
        kept = wanted["logits"][:, list(made.source_ids)]
        np.testing.assert_allclose(found["logits"], kept, atol=1e-5 * np.ptp(kept))
    save_model(made, tmp_path / "saved")
    again = answers(load_source(str(tmp_path / "saved")), KEPT)
    np.testing.assert_array_equal(again[0]["logits"], answers(made, KEPT)[0]["logits"])


def test_an_untied_output_layer_is_cut_as_well(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", "fill-mask", tie_word_embeddings=False)))
    made = trimmed(source, tmp_path)
    assert made.module.get_output_embeddings().weight is not made.module.get_input_embeddings().weight
    assert made.module.get_output_embeddings().out_features == len(made.tokenizer)
    assert answers(made, KEPT)[0]["logits"].shape[1] == len(made.tokenizer)


def test_positions_that_are_counted_from_the_padding_id_stay(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("roberta")))
    assert trimmed(source, tmp_path).tokenizer.pad_token_id == source.tokenizer.pad_token_id == 1
    from converter.surgery.vocabulary import with_vocabulary

    with pytest.raises(StageFailed, match="padding id 1"):
        with_vocabulary(source, source.tokenizer, [1, 2, 3])


def test_a_merge_that_made_a_kept_token_is_kept(tiny: Callable[..., Path]) -> None:
    tokenizer = load_source(str(tiny("roberta"))).tokenizer
    table = table_of(tokenizer)
    token = max(pieces_of(table).items(), key=lambda item: len(item[1]) if item[1].startswith("Ġ") else 0)[0]
    family = Ancestors(table).of(token)
    specials = {t["id"] for t in table["added_tokens"]}
    word = tokenizer.decode([token])
    whole = open_table(cut_table(table, sorted(family | specials)), tokenizer)
    assert whole.tokenize(word) == tokenizer.tokenize(word) == [pieces_of(table)[token]]
    # The twin: without one ancestor the token can no longer be made.
    parent = max((i for i in family if i != token), key=lambda i: len(pieces_of(table)[i]))
    broken = open_table(cut_table(table, sorted((family | specials) - {parent})), tokenizer)
    assert broken.tokenize(word) != tokenizer.tokenize(word)


def test_a_word_that_was_unknown_stays_unknown(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert")))
    # It begins like known words, and then has letters that no piece has.
    text = "wonderful東 the東 xyz"
    assert source.tokenizer.unk_token in source.tokenizer.tokenize(text)
    made = trimmed(source, tmp_path, (Example(text),))
    assert made.tokenizer.tokenize(text) == source.tokenizer.tokenize(text)


def test_held_out_text_that_is_split_otherwise_is_counted_and_shown(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert")))
    ctx = Context(work=tmp_path, calibration=KEPT, held_out=OTHER)
    _, record = run_stage(VocabularyTrimming(), source, ctx)
    found = record.facts["held_out_text"]
    made = trimmed(source, tmp_path)
    other = sum(made.tokenizer.tokenize(e.text) != source.tokenizer.tokenize(e.text) for e in OTHER)
    assert found["split_otherwise"] == other > 0
    assert found["examples"][0]["was"] != found["examples"][0]["is"]
    assert record.facts["kept_text"] == {"texts": 6, "split_otherwise": 0, "answers_compared": 6}
    # The twin: a trimming that keeps this text too changes nothing.
    _, whole = run_stage(VocabularyTrimming(), source, replace(ctx, calibration=KEPT + OTHER))
    assert whole.facts["held_out_text"]["texts"] == 0


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering", "fill-mask"])
def test_answers_are_compared_from_text_to_answer(tiny: Callable[..., Path], tmp_path: Path, task: str) -> None:
    source = load_source(str(tiny("bert", task)))
    examples = KEPT + OTHER
    if task == "question-answering":
        examples = tuple(Example("who moved to New York?", e.text) for e in examples)
    if task == "fill-mask":
        examples = tuple(Example(f"[MASK] {e.text}") for e in examples)
    reference = capture_reference(source, examples, SILENT)
    made = trimmed(source, tmp_path, KEPT)
    shown, seen = as_seen_by(made, source, reference, None, SILENT)
    result = compare(shown, seen, torch_run(made), Limits(agreement=0.0), SILENT, "test")
    assert len(result.errors) == len(examples)
    n_kept = len(KEPT) if task != "question-answering" else 0
    assert max(result.errors[:n_kept], default=0.0) < 1e-5
    assert max(result.errors) > 1e-3  # other tokens, other numbers: that is seen, not hidden
    whole = trimmed(source, tmp_path, examples)
    shown, seen = as_seen_by(whole, source, reference, None, SILENT)
    result = compare(shown, seen, torch_run(whole), Limits(agreement=0.0), SILENT, "test")
    assert max(result.errors) < 1e-5
    if task != "fill-mask":  # there the source may answer with a word that no text has: gone is gone
        assert result.agreement == 1


def test_a_masked_token_that_is_gone_counts_as_another_answer(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", "fill-mask")))
    reference = capture_reference(source, KEPT + OTHER, SILENT)
    made = trimmed(source, tmp_path, KEPT)
    assert made.source_ids is not None
    _, seen = as_seen_by(made, source, reference, None, SILENT)
    own = dict(enumerate(made.source_ids))
    for i, (was, now) in enumerate(zip(reference.decisions, seen.decisions, strict=True)):
        if i < len(KEPT):
            assert [own.get(t) for t in now] == [t if t in made.source_ids else None for t in was]
    assert -1 in {t for d in seen.decisions for t in d}


def test_the_most_frequent_tokens_stay_and_the_others_go(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("roberta")))
    few, many = trimmed(source, tmp_path, top=300), trimmed(source, tmp_path, top=450)
    assert (len(few.tokenizer), len(many.tokenizer)) == (300, 450)
    used = {i for e in KEPT for i in source.tokenizer(e.text)["input_ids"]}
    # More than the text takes: what is left over goes to the lowest ids, which are the commonest tokens in general.
    assert many.source_ids is not None
    assert used < set(many.source_ids)
    assert many.source_ids[:320] == tuple(range(320))
    with pytest.raises(RecipeError, match="fewer than the"):
        trimmed(source, tmp_path, top=100)


def test_a_teacher_answers_in_the_students_tokens(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert")))
    made = trimmed(source, tmp_path)
    teacher = in_vocabulary_of(made, source)
    for wanted, found in zip(answers(source, KEPT), answers(teacher, KEPT), strict=True):
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=ROUNDING, rtol=0)
    assert in_vocabulary_of(source, source) is source


def test_no_text_is_refused_before_work(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = load_source(str(tiny("bert")))
    with pytest.raises(UsageError, match="no text to find"):
        VocabularyTrimming().check(source, has_text=False)
    with pytest.raises(DataError, match="no such file"):
        VocabularyTrimming(corpus=(str(tmp_path / "gone.txt"),)).check(source, has_text=False)
    (tmp_path / "corpus.txt").write_text("a text\n", encoding="utf-8")
    VocabularyTrimming(corpus=(str(tmp_path / "corpus.txt"),)).check(source, has_text=False)


def test_a_list_without_special_tokens_is_refused_and_a_whole_one_is_applied_again(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source = load_source(str(tiny("bert")))
    made = trimmed(source, tmp_path)
    save_model(made, tmp_path / "first")
    again = trimmed(source, tmp_path, tokens=str(tmp_path / "first" / "tokenizer.json"))
    assert again.source_ids == made.source_ids
    (tmp_path / "list.txt").write_text("\n".join(t for t in made.tokenizer.get_vocab() if t != "[CLS]"), "utf-8")
    with pytest.raises(UsageError, match=r"drops '\[CLS\]', a special token"):
        VocabularyTrimming(tokens=str(tmp_path / "list.txt")).check(source, has_text=True)
    with pytest.raises(RecipeError, match="have no effect"):
        bind(VocabularyTrimming, {"tokens": "x", "top": 5}, "recipe")


def test_a_tokenizer_of_another_kind_is_refused(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny("bert")))

    class Backend:
        def to_str(self) -> str:
            return '{"model": {"type": "Exotic", "vocab": {}}}'

    class Tokenizer:
        backend_tokenizer = Backend()

    with pytest.raises(SourceError, match="Exotic tokenizer"):
        VocabularyTrimming().check(replace(source, tokenizer=Tokenizer()), has_text=True)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "fill-mask"])
def test_the_package_has_the_trimmed_tokenizer_and_is_judged_by_it(
    tiny: Callable[..., Path], tmp_path: Path, task: str
) -> None:
    from converter import convert, verify
    from converter.jsonfile import read_json

    (tmp_path / "kept.txt").write_text("\n".join(SENTENCES[:12]), encoding="utf-8")
    (tmp_path / "judged.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    recipe = {
        "model": str(tiny("bert", task)),
        "quantize": {"cpu-int8": "none"},
        "compress": [{"stage": "trim.vocabulary", "corpus": [str(tmp_path / "kept.txt")]}],
        "eval": str(tmp_path / "judged.txt"),
        "limits": {"agreement": 0.0, "stability": 0.5},
    }
    (made,) = convert(recipe, tmp_path / "out").targets
    assert made.evaluation is not None, made.error
    found = made.evaluation.facts["vocabulary"]
    assert found["texts"] > found["split_otherwise"] > 0
    filled = next(c for c in made.evaluation.checks if c.name == "full lengths")
    assert filled.value is not None
    assert 0 < filled.value < 1e-5, "the model is asked about the very tokens that the package is given"
    assert made.folder is not None
    package = tmp_path / "out" / made.folder
    if made.error is None:  # a tiny model fills masks no better than chance, which proves nothing
        assert verify(package)["golden_texts"] > 4
    assert made.error is None or "chance" in made.error
    assert f"trimmed to {found['tokens']} of" in (package / "README.md").read_text(encoding="utf-8")
    tokens = read_json(package / "tokenizer.json")["model"]["vocab"]
    assert len(tokens) == read_json(package / "config.json")["vocab_size"] == found["tokens"]
