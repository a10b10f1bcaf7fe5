"""The samples' tokenizers in C++ and Java give the ids, and the text, of Hugging Face's: every kind of tokenizer."""

import random
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from converter.device.parity import expected
from converter.device.tables import TABLES_FILE, read_tables, write_tables
from tests.contract.device_packages import compiler
from tests.device_tokenizers import ask, compiled
from tests.tiny import SENTENCES, make_tokenizer
from tests.tokenizer_kinds import KINDS, random_texts, tables_of, tokenizer_json

SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined")


@pytest.fixture(scope="session", params=["cpp", "java"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program of a language, compiled once."""
    language = request.param
    compiler("g++" if language == "cpp" else "javac")
    command = compiled(language, tmp_path_factory.mktemp(language), *(SANITIZED if language == "cpp" else ()))
    return command if language == "cpp" else [*command[:1], "-XX:TieredStopAtLevel=1", *command[1:]]


@pytest.fixture(scope="session", params=[*KINDS, "wordpiece"])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if kind == "wordpiece":
        backend = make_tokenizer("bert").backend_tokenizer
        write_tables(read_tables(backend), folder)
    else:
        backend = Tokenizer.from_str(tokenizer_json(kind))
        write_tables(tables_of(kind), folder)
    return backend, folder


def test_texts_get_the_ids_of_the_original_and_ids_its_text(program: list[str], given: tuple[Tokenizer, Path]) -> None:
    backend, folder = given
    added = tuple(token.content for token in backend.get_added_tokens_decoder().values())
    hard = [e.hard.text for e in expected(backend, 48)]
    texts = [*SENTENCES, *hard, *random_texts(200, 5, added)]
    rng = random.Random(1)
    decodes = "\ndecode\t" in (folder / TABLES_FILE).read_text("utf-8")
    some = [[rng.randrange(backend.get_vocab_size()) for _ in range(rng.randrange(14))] for _ in range(200)]
    ids = [*some, *(backend.encode(t).ids for t in texts[:60])] if decodes else []
    made = ask(program, folder, texts, ids)
    for text, found in zip(texts, made.ids, strict=True):
        assert found == backend.encode(text).ids, ascii(text)
    for given_ids, decoded, parts in zip(ids, made.decoded, made.streamed, strict=True):
        wanted = backend.decode(given_ids)
        assert decoded == wanted, given_ids
        assert "".join(parts) == wanted, given_ids
        assert len(parts) == len(given_ids) + 1
    assert decodes != folder.name.startswith("wordpiece")


def test_a_wrong_table_gives_other_ids(program: list[str], tmp_path: Path) -> None:
    backend = Tokenizer.from_str(tokenizer_json("qwen2"))
    write_tables(tables_of("qwen2"), tmp_path / "right")
    shutil.copytree(tmp_path / "right", tmp_path / "wrong")
    path = tmp_path / "wrong" / TABLES_FILE
    text = path.read_bytes().decode()
    path.write_bytes(text.replace("compose\t", "compose\t3c,338,3c\nx\t", 1).encode())
    texts = ["e\u0301te\u0301", "plain"]
    wanted = [backend.encode(t).ids for t in texts]
    assert ask(program, tmp_path / "right", texts, []).ids == wanted
    assert [a == b for a, b in zip(ask(program, tmp_path / "wrong", texts, []).ids, wanted, strict=True)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    "damage", ["plm-export-wordpiece\t1\n", "plm-export-tokenizer\t2\nkind\tsyllables\nsingle\t\npair\t\nspaces\t\n"]
)
def test_tables_of_another_form_are_refused(program: list[str], damage: str, tmp_path: Path) -> None:
    (tmp_path / TABLES_FILE).write_text(damage, "utf-8")
    (tmp_path / "vocab.txt").write_text("a\n", "utf-8")
    with pytest.raises(RuntimeError, match=r"of another format|of a later version"):
        ask(program, tmp_path, ["a"], [])
