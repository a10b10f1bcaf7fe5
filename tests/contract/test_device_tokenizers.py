"""The samples' tokenizers in C++ and Java give the ids, and the text, of Hugging Face's: every kind of tokenizer."""

import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from converter.device.parity import expected
from converter.device.tables import TABLES_FILE, read_tables, write_tables
from tests.contract.device_packages import compiler
from tests.device_tokenizers import ask, compiled
from tests.tiny import SENTENCES, make_tokenizer
from tests.tokenizer_kinds import KINDS, random_texts, tables_of, tokenizer_json

SANITIZED = ("-O1", "-fsanitize=address,undefined")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return the command of a language's program, compiled once."""

    @cache
    def program(language: str) -> list[str]:
        compiler("g++" if language == "cpp" else "javac")
        if language == "cpp":
            return compiled("cpp", tmp_path_factory.mktemp("cpp"), *SANITIZED)
        java, *rest = compiled("java", tmp_path_factory.mktemp("java"))
        return [java, "-XX:TieredStopAtLevel=1", *rest]

    return program


def _given(kind: str, folder: Path) -> Tokenizer:
    """Write the tables of a tokenizer to a folder."""
    if kind != "wordpiece":
        write_tables(tables_of(kind), folder)
        return Tokenizer.from_str(tokenizer_json(kind))
    backend: Tokenizer = make_tokenizer("bert").backend_tokenizer
    write_tables(read_tables(backend), folder)
    return backend


@pytest.mark.parametrize("language", ["cpp", "java"])
@pytest.mark.parametrize("kind", [*KINDS, "wordpiece"])
def test_texts_get_the_ids_of_the_original_and_ids_its_text(
    kind: str, language: str, programs: Callable[[str], list[str]], tmp_path: Path
) -> None:
    backend, folder = _given(kind, tmp_path), tmp_path
    added = tuple(token.content for token in backend.get_added_tokens_decoder().values())
    hard = [e.hard.text for e in expected(backend, 48)]
    texts = [*SENTENCES, *hard, *random_texts(200, 5, added)]
    rng = random.Random(1)
    decodes = "\ndecode\t" in (folder / TABLES_FILE).read_text("utf-8")
    some = [[rng.randrange(backend.get_vocab_size()) for _ in range(rng.randrange(14))] for _ in range(200)]
    ids = [*some, *(backend.encode(t).ids for t in texts[:60])] if decodes else []
    made = ask(programs(language), folder, texts, ids)
    for text, found in zip(texts, made.ids, strict=True):
        assert found == backend.encode(text).ids, ascii(text)
    for given_ids, decoded, parts in zip(ids, made.decoded, made.streamed, strict=True):
        wanted = backend.decode(given_ids)
        assert decoded == wanted, given_ids
        assert "".join(parts) == wanted, given_ids
        assert len(parts) == len(given_ids) + 1
    assert decodes == (kind != "wordpiece")


@pytest.mark.parametrize("language", ["cpp", "java"])
def test_a_wrong_table_gives_other_ids(language: str, programs: Callable[[str], list[str]], tmp_path: Path) -> None:
    program = programs(language)
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
@pytest.mark.parametrize("language", ["cpp", "java"])
def test_tables_of_another_form_are_refused(
    language: str, damage: str, programs: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / TABLES_FILE).write_text(damage, "utf-8")
    (tmp_path / "vocab.txt").write_text("a\n", "utf-8")
    with pytest.raises(RuntimeError, match=r"of another format|of a later version"):
        ask(programs(language), tmp_path, ["a"], [])
