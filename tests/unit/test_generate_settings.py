"""How a model generates is read from its folder, as transformers reads it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.errors import SourceError, UsageError
from converter.generate.languages import target_language, target_languages
from converter.generate.read_settings import (
    KEYS,
    read_settings,
    settings_of_table,
    table_of_settings,
    text_prefix,
)
from converter.generate.settings import GenerationSettings


def folder(path: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


def test_a_generation_config_says_how_texts_begin_and_end(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        {"is_encoder_decoder": True, "pad_token_id": 7, "num_beams": 9, "suppress_tokens": [1]},
        {"eos_token_id": [3, 4], "forced_bos_token_id": 5, "forced_eos_token_id": 4, "decoder_start_token_id": 2,
         "max_length": 142, "min_length": 56, "num_beams": 4, "early_stopping": True, "length_penalty": 2.0,
         "no_repeat_ngram_size": 3, "bad_words_ids": [[8], [9, 1]], "suppress_tokens": [6], "max_new_tokens": None},
    )  # fmt: skip
    assert read_settings(made, context=512) == GenerationSettings(
        eos_ids=(3, 4), forced_bos_id=5, forced_eos_ids=(4,), start_id=2, pad_id=7, max_length=142, min_length=56,
        beams=4, early_stopping=True, length_penalty=2.0, no_repeat_ngram=3, bad_words=((8,), (9, 1)), suppressed=(6,),
        context=512,
    )  # fmt: skip


def test_tokens_of_the_configuration_are_no_settings_where_there_is_a_generation_config(tmp_path: Path) -> None:
    """transformers reads the one file: such a model is never ended, and nothing is forced."""
    tokens = {"eos_token_id": 1, "forced_bos_token_id": 2, "forced_eos_token_id": 1, "decoder_start_token_id": 4}
    made = folder(tmp_path, {"is_encoder_decoder": True, "bos_token_id": 0, **tokens}, {"bos_token_id": 3})
    assert read_settings(made) == GenerationSettings(start_id=3)
    # An empty file is one, too; and what nothing says stays unsaid.
    assert read_settings(folder(tmp_path, {"is_encoder_decoder": True, **tokens}, {})) == GenerationSettings()


def test_a_temperature_of_zero_is_none_where_nothing_is_drawn(tmp_path: Path) -> None:
    made = folder(tmp_path, {}, {"temperature": 0.0, "top_p": 0, "do_sample": False})
    assert read_settings(made) == GenerationSettings()


def test_an_old_folder_says_it_in_its_configuration(tmp_path: Path) -> None:
    made = folder(tmp_path, {"is_encoder_decoder": True, "bos_token_id": 0, "eos_token_id": 1, "num_beams": 4})
    assert read_settings(made) == GenerationSettings(eos_ids=(1,), beams=4, start_id=0)


def test_the_fewest_new_tokens_go_before_the_least_length_as_in_transformers(tmp_path: Path) -> None:
    """A model that asks for a summary of 56 tokens writes a short one where it is asked for a short one."""
    for fewest in (5, 0):
        made = read_settings(folder(tmp_path, {}, {"min_length": 56, "min_new_tokens": fewest}))
        assert (made.min_length, made.min_new_tokens) == (0, fewest)
    assert read_settings(folder(tmp_path, {}, {"min_length": 56, "min_new_tokens": None})).min_length == 56


@pytest.mark.parametrize("generation", [None, {}])
def test_an_old_bart_says_by_a_switch_that_its_first_token_is_forced(
    generation: dict[str, Any] | None, tmp_path: Path
) -> None:
    from transformers import BartConfig, GenerationConfig

    table = {"is_encoder_decoder": True, "bos_token_id": 0, "force_bos_token_to_be_generated": True}
    made = read_settings(folder(tmp_path, table, generation))
    assert made.forced_bos_id == (0 if generation is None else None)
    theirs = GenerationConfig.from_model_config(BartConfig(**table))
    assert theirs.forced_bos_token_id == 0


def test_a_task_of_t5_has_its_own_settings_and_prefix(tmp_path: Path) -> None:
    params = {"summarization": {"prefix": "summarize: ", "max_length": 200, "num_beams": 4}}
    made = folder(tmp_path, {"is_encoder_decoder": True, "decoder_start_token_id": 0, "task_specific_params": params})
    assert read_settings(made, task="summarization") == GenerationSettings(start_id=0, max_length=200, beams=4)
    assert read_settings(made) == GenerationSettings(start_id=0)
    assert (text_prefix(made, "summarization"), text_prefix(made, "translation_en_to_de")) == ("summarize: ", "")


@pytest.mark.parametrize("pad", [5, [5], [5, 6]])
def test_a_list_where_one_token_belongs_is_its_first(tmp_path: Path, pad: Any) -> None:
    assert read_settings(folder(tmp_path, {}, {"pad_token_id": pad})).pad_id == 5


def test_a_model_without_a_padding_token_fills_with_the_one_that_ends_texts(tmp_path: Path) -> None:
    settings = read_settings(folder(tmp_path, {}, {"eos_token_id": 50256}))
    assert (settings.pad_id, settings.fill_id) == (None, 50256)
    assert replace(settings, eos_ids=()).fill_id == 0


@pytest.mark.parametrize(
    ("generation", "named"),
    [
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size"),
        ({"encoder_no_repeat_ngram_size": 1}, "encoder_no_repeat_ngram_size"),
        ({"max_time": 1.0}, "max_time"),
        ({"token_healing": True}, "token_healing"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"max_length": 2.5}, "max_length"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 0.0, "do_sample": True}, "temperature"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
        ({"renormalize_logits": "false"}, "renormalize_logits is 'false'.*true or false"),
        ({"do_sample": "no"}, "do_sample is 'no'.*true or false"),
        ({"do_sample": [0]}, "do_sample"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"repetition_penalty": float("inf")}, "Infinity is no number"),
        ({"top_p": 10**400}, "top_p"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_followed_is_named(tmp_path: Path, generation: dict[str, Any], named: str) -> None:
    with pytest.raises(SourceError, match=named):
        read_settings(folder(tmp_path, {}, generation))


@pytest.mark.parametrize("name", ["repetition_penalty", "max_length", "of_another_tool"])
def test_a_number_without_end_is_named(tmp_path: Path, name: str) -> None:
    folder(tmp_path, {})
    # No word that JSON lacks, but more than a float holds.
    (tmp_path / "generation_config.json").write_text(f'{{"{name}": [1e999]}}')
    with pytest.raises(SourceError, match=f"{name} holds a number that is not finite"):
        read_settings(tmp_path)
    with pytest.raises(SourceError, match=f"{name} holds a number that is not finite"):
        settings_of_table({name: {"a": float("nan")}}, "here")


def test_a_setting_that_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    made = folder(tmp_path, {}, {"num_beam_groups": 1, "diversity_penalty": 0.0, "typical_p": 0.5, "top_h": None})
    assert read_settings(made) == GenerationSettings()


def test_every_setting_is_one_of_transformers_and_has_its_default() -> None:
    from transformers import GenerationConfig

    known = set(vars(GenerationConfig()))
    assert set(KEYS) <= known
    defaults = GenerationConfig._get_default_generation_params()
    unset = settings_of_table({k: v for k, v in defaults.items() if k in KEYS and k != "max_length"}, "")
    assert unset == GenerationSettings()


@pytest.mark.parametrize(
    "settings",
    [
        GenerationSettings(),
        GenerationSettings(eos_ids=(3,), pad_id=0, max_new_tokens=7, sample=True, temperature=0.7, top_k=5, top_p=0.9),
        GenerationSettings(
            eos_ids=(3, 4), bad_words=((1,), (2, 3)), early_stopping="never", beams=4, suppressed=(9, 8)
        ),
    ],
    ids=["default", "sampling", "beams"],
)
def test_settings_are_written_as_transformers_reads_them(settings: GenerationSettings) -> None:
    from transformers import GenerationConfig

    table = json.loads(json.dumps(table_of_settings(settings)))
    assert settings_of_table(table, "") == settings
    theirs = GenerationConfig(**table)
    assert all(getattr(theirs, name) == value for name, value in table.items())


class Tokenizer:
    def __init__(self, added: dict[str, int], plain: dict[str, int] | None = None) -> None:
        self._added, self._plain = added, plain or {}

    def get_added_vocab(self) -> dict[str, int]:
        return self._added

    def get_vocab(self) -> dict[str, int]:
        return self._plain | self._added


@pytest.mark.parametrize(
    ("token", "code"), [("__de__", "de"), ("de_DE", "de_DE"), ("deu_Latn", "deu_Latn"), ("__ast__", "ast")]
)
def test_a_language_is_a_token_that_answers_begin_with(token: str, code: str) -> None:
    language = target_language(Tokenizer({"<s>": 0, token: 9}), code)
    assert (language.id, language.mark) == (9, "")


def test_a_language_of_marian_is_a_mark_before_the_text() -> None:
    language = target_language(Tokenizer({}, {">>deu<<": 3, "de_DE": 4, "word": 5}), "deu")
    assert (language.id, language.mark) == (3, ">>deu<<")


def test_a_word_of_the_vocabulary_is_no_language() -> None:
    assert target_languages(Tokenizer({"<s>": 0}, {"de_DE": 4})) == {}


def test_a_language_that_a_model_lacks_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="fr_FR") as caught:
        target_language(Tokenizer({"fr_XX": 1, "de_DE": 2}), "fr_FR")
    assert "fr_XX" in caught.value.hint
    with pytest.raises(UsageError, match="no tokens of languages"):
        target_language(Tokenizer({"<s>": 0}), "de")
