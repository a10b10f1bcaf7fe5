"""Pairs that a writing model is judged by: which column is the text, which its reference, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.data.files import read_data
from converter.data.languages import language_of
from converter.data.survey import DataOptions
from converter.errors import DataError
from converter.examples import References
from converter.tasks.text2text_generation import TextToText
from converter.tasks.text_generation import TextGeneration
from converter.tasks.translation import Translation

EN, DE = "Good morning.", "Guten Morgen."


def translation(source: str = "en", target: str = "de") -> Translation:
    made = Translation(SimpleNamespace(vocab_size=100))
    made.languages = (source, target)
    return made


def read(tmp_path: Path, name: str, content: Any, task: Any, columns: dict[str, str] | None = None) -> Any:
    file = tmp_path / name
    if name.endswith(".jsonl"):
        content = "\n".join(json.dumps(row) for row in content)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_data(file, task, DataOptions(columns or {}), judged=True)


@pytest.mark.parametrize(
    "row",
    [
        {"source": EN, "target": DE},
        {"src": EN, "tgt": DE},
        {"src": EN, "ref": DE, "id": 3},
        {"id": "0", "translation": {"de": DE, "en": EN}},
        {"translation": {"en": EN, "fr": "Bonjour.", "de": DE}},
        {"translation": {"eng_Latn": EN, "deu_Latn": DE}},
        {"de": DE, "en": EN},
        {"en_XX": EN, "de_DE": DE, "score": 0.9},
        {"sentence_eng_Latn": EN, "sentence_deu_Latn": DE, "id": 4},
        {"English": EN, "German": DE},
        {"source": EN, "references": [DE]},
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_the_columns_of_translations_are_known(row: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    (example,) = read(tmp_path, f"pairs{suffix}", [row], translation()).examples
    assert (example.text, example.label) == (EN, References((DE,)))


def test_the_language_that_a_model_reads_decides_and_not_the_order(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "p.jsonl", [{"translation": {"en": EN, "de": DE}}], translation("de", "en")).examples
    assert (example.text, example.label) == (DE, References((EN,)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", f"source\ttarget\n{EN}\t{DE}\n"),
        ("p.tsv", f"en\tde\n{EN}\t{DE}\n"),
        ("p.csv", f'id,en,de\n1,"{EN}","{DE}"\n'),
        ("p.csv", f"translation\n\"{{'en': '{EN}', 'de': '{DE}'}}\"\n"),
        ("p.tsv", f"{EN}\t{DE}\n"),
    ],
)
def test_tables_of_pairs_are_read_with_a_header_or_as_two_bare_columns(name: str, content: str, tmp_path: Path) -> None:
    data = read(tmp_path, name, content, translation())
    assert [(e.text, e.label) for e in data.examples] == [(EN, References((DE,)))]
    bare = not any(content.startswith(known) for known in ("source", "en", "id", "translation"))
    assert any("no header" in note for note in data.notes) == bare


@pytest.mark.parametrize(
    "row",
    [
        {"document": EN, "summary": DE},
        {"article": EN, "highlights": DE, "id": "x"},
        {"dialogue": EN, "summary": DE},
        {"input": EN, "output": DE},
    ],
    ids=str,
)
def test_the_columns_of_summaries_are_known(row: dict[str, Any], tmp_path: Path) -> None:
    (example,) = read(tmp_path, "p.jsonl", [row], TextToText(SimpleNamespace(vocab_size=100))).examples
    assert (example.text, example.label) == (EN, References((DE,)))


def test_columns_can_be_named(tmp_path: Path) -> None:
    content = f"mine\tyours\n{EN}\t{DE}\n"
    data = read(tmp_path, "p.tsv", content, translation("", ""), {"text": "mine", "label": "yours"})
    assert [(e.text, e.label) for e in data.examples] == [(EN, References((DE,)))]
    rows = [{"en": EN, "de": DE}]
    (example,) = read(tmp_path, "p.jsonl", rows, translation("", ""), {"text": "de", "label": "en"}).examples
    assert (example.text, example.label) == (DE, References((EN,)))


def test_languages_inside_a_table_can_be_named_too(tmp_path: Path) -> None:
    rows, columns = [{"id": 1, "translation": {"en": EN, "de": DE}}], {"text": "de", "label": "en"}
    (example,) = read(tmp_path, "p.jsonl", rows, translation("", ""), columns).examples
    assert (example.text, example.label) == (DE, References((EN,)))


class Tokenizer:
    def __init__(self, added: dict[str, int], own: dict[str, int] | None = None) -> None:
        self.added, self.own = added, own or {}

    def get_added_vocab(self) -> dict[str, int]:
        return self.added

    def get_vocab(self) -> dict[str, int]:
        return self.own


@pytest.mark.parametrize(
    ("config", "tokenizer", "forced", "wanted"),
    [
        ({"source_lang": "en", "target_lang": "de"}, Tokenizer({}), None, ("en", "de")),
        ({"src_lang": "en_XX", "tgt_lang": "fr_XX"}, Tokenizer({"de_DE": 7, "fr_XX": 8}), 7, ("en", "de")),
        ({"src_lang": "eng_Latn"}, Tokenizer({"deu_Latn": 7}), 7, ("en", "de")),
        ({"source_lang": "eng", "target_lang": "mul"}, Tokenizer({}, {">>deu<<": 4}), None, ("en", "")),
        ({}, Tokenizer({}), None, ("", "")),
    ],
)
def test_a_models_folder_says_what_it_reads_and_writes(
    config: dict[str, str], tokenizer: Any, forced: int | None, wanted: tuple[str, str], tmp_path: Path
) -> None:
    from converter.generate.settings import GenerationSettings
    from converter.tasks._writing import _languages

    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert _languages(tmp_path, tokenizer, GenerationSettings(forced_bos_id=forced)) == wanted


def test_several_references_are_kept(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "p.jsonl", [{"source": EN, "references": [DE, "Morgen!"]}], translation()).examples
    assert example.label == References((DE, "Morgen!"))


def test_plain_text_is_scored_itself_by_a_model_that_continues_it(tmp_path: Path) -> None:
    causal = TextGeneration(SimpleNamespace(vocab_size=100))
    data = read(tmp_path, "p.txt", f"{EN}\n\n{DE}\n", causal)
    assert [(e.text, e.label) for e in data.examples] == [(EN, References(())), (DE, References(()))]
    assert not data.notes
    (pair,) = read(tmp_path, "p.jsonl", [{"prompt": EN, "completion": DE}], causal).examples
    assert pair.label == References((DE,))


def test_text_without_references_has_no_label_for_a_translator(tmp_path: Path) -> None:
    data = read(tmp_path, "p.txt", f"{EN}\n", translation())
    assert [(e.text, e.label) for e in data.examples] == [(EN, None)]
    assert any("no metric" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", [{"source": EN, "target": DE}, {"source": EN, "target": " "}], "p.jsonl:2: target is empty"),
        ("p.jsonl", [{"source": None, "target": DE}], "p.jsonl:1: source is empty"),
        ("p.tsv", f"{EN}\t{DE}\n{EN}\t\n", "p.tsv:2: target is empty"),
        ("p.jsonl", [{"source": EN, "references": []}], "references is empty"),
        ("p.jsonl", [{"source": EN, "target": 3}], "target is 3, wanted text"),
        ("p.jsonl", [{"translation": {"en": EN, "fr": "Bonjour."}}], "the model writes 'de', which is not among them"),
        ("p.jsonl", [{"translation": {"fr": "Bonjour.", "de": DE}}], "the model reads 'en', which is not among them"),
        ("p.jsonl", [{"name": EN}], "columns missing: found name"),
        ("p.tsv", f"{EN}\t{DE}\tCC-BY\n", "no known column"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(name: str, content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content, translation())
    assert said in str(caught.value)
    assert caught.value.hint
    # Its own names, not those of a classifier alone.
    assert "no known column" not in said or "source and target" in caught.value.hint


def test_two_languages_of_a_model_that_names_none_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not say which of them it reads") as caught:
        read(tmp_path, "p.jsonl", [{"translation": {"en": EN, "de": DE}}], translation("", ""))
    assert "text=en,label=de" in str(caught.value.hint)


def test_a_header_of_one_column_of_a_pair_is_not_taken_for_a_row(tmp_path: Path) -> None:
    data = read(tmp_path, "p.tsv", f"text\tnote\n{EN}\tx\n", translation())
    assert [e.text for e in data.examples] == [EN]


def test_languages_have_one_name() -> None:
    assert {language_of(n) for n in ("de", "deu", "ger", "de_DE", "deu_Latn", "German", "sentence_deu_Latn")} == {"de"}
    assert {language_of(n) for n in ("label", "text", "source", "id_1", "")} <= {"", "id"}
