"""The tokenizer.json made of SentencePiece files reads and writes as transformers does with those files."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from converter.device.hard_texts import hard_texts
from converter.errors import SourceError
from converter.model_folder.sentencepiece_tokenizer import check_tokenizer, m2m100_tokenizer, marian_tokenizer
from tests.tiny import SENTENCES
from tests.tiny_text import make_m2m100_tokenizer, make_marian_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Recommended")

TEXTS = [
    *(hard.text for hard in hard_texts(["</s>", "<unk>", "<pad>"])),
    *SENTENCES,
    *("</s> </s>", "<pad> x </s> y", "a</s>b", "▁under", "a▁b", "x▁▁y", "ÀÉ 字 𝄞", "<UNK>", " lead", "trail "),
    *("ø", "øø", "þð", "þ", "þðø", "xøy", "søn þðe", "þþðð", "ø ø", "字ø"),
]
"""The last line has letters that only the other language of the Marian tokenizer knows."""


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("marian")
    return folder, make_marian_tokenizer(folder)


def languages_of(tokenizer: Any) -> dict[str, int]:
    return dict(tokenizer.lang_token_to_id)


def test_marian_reads_hard_texts_as_transformers_does(marian: tuple[Path, Any]) -> None:
    folder, slow = marian
    marked = [
        f">>deu<<{space}{text}" for space in ("", " ", "  ") for text in ("", "the river", "a  b", "øø", " trail ")
    ]
    facts = check_tokenizer(marian_tokenizer(folder), slow, [*TEXTS, *marked])
    assert facts["texts"] == len(TEXTS) + len(marked)
    assert facts["ties"] <= 3


def test_marian_writes_any_ids_as_transformers_does(marian: tuple[Path, Any]) -> None:
    folder, slow = marian
    core, draw = marian_tokenizer(folder), random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(core.get_vocab_size()) for _ in range(10)]
        assert core.decode(ids) == slow.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_m2m100_reads_hard_texts_as_transformers_does(tmp_path: Path, kind: str) -> None:
    slow = make_m2m100_tokenizer(tmp_path, kind)
    core = m2m100_tokenizer(tmp_path, languages_of(slow), "__en__")
    facts = check_tokenizer(core, slow, TEXTS)
    assert facts["ties"] <= (0 if kind == "bpe" else 3)
    assert core.encode("the river").ids[0] == slow.get_lang_id("en")


def test_a_file_that_was_saved_reads_alike(marian: tuple[Path, Any], tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    core = marian_tokenizer(marian[0])
    core.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert all(again.encode(t).ids == core.encode(t).ids for t in TEXTS)


def test_a_tokenizer_of_other_files_is_told_by_a_text(marian: tuple[Path, Any], tmp_path: Path) -> None:
    folder, slow = marian
    for name in ("source.spm", "vocab.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    table = json.loads((tmp_path / "vocab.json").read_text())
    table["▁a"], table["▁b"] = table["▁b"], table["▁a"]
    (tmp_path / "vocab.json").write_text(json.dumps(table))
    with pytest.raises(SourceError, match="transformers reads"):
        check_tokenizer(marian_tokenizer(tmp_path), slow, TEXTS)


@pytest.mark.parametrize("damage", ["not a SentencePiece file", "is missing", "its ids"])
def test_damaged_files_are_refused(marian: tuple[Path, Any], tmp_path: Path, damage: str) -> None:
    spm, table = (marian[0] / "source.spm").read_bytes(), json.loads((marian[0] / "vocab.json").read_text())
    if damage == "not a SentencePiece file":
        spm = spm[:1000]
    if damage == "is missing":
        del table["<pad>"]
    if damage == "its ids":
        table["▁a"] = 10**6
    (tmp_path / "source.spm").write_bytes(spm)
    (tmp_path / "vocab.json").write_text(json.dumps(table))
    with pytest.raises(SourceError, match=damage):
        marian_tokenizer(tmp_path)
