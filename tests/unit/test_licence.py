"""What a model card says of licence and language, and the files that go with a model."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from converter.artifact import SourceCard
from converter.errors import SourceError
from converter.model_folder.licence import MOST_BYTES, check_licence, joined, read_card, write_notices
from converter.package.readme import weights_digest
from converter.package.sbom import licences


def card(folder: Path, text: str) -> SourceCard:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return read_card(folder)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("\ufeff---\r\nlicence: mit\r\n---\r\n", "mit"),
        ('---\nlicense: "cc-by-4.0"  # a comment\n---\n', "cc-by-4.0"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit AND apache-2.0"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: 3\n---\n", None),
        ("---\nlicense: [3]\n---\n", None),
        ("---\nlicense: {a: b\n---\n", None),
        ("---\n- license: mit\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system ['x']\n---\n", None),
        ("# license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_that_of_the_front_matter(text: str, licence: str | None, tmp_path: Path) -> None:
    assert card(tmp_path, text).licence == licence


def test_what_a_terminal_would_obey_is_not_taken_over(tmp_path: Path) -> None:
    assert card(tmp_path, '---\nlicense: "mit\\e[2J\\nx"\n---\n').licence == "mit [2J x"


def test_languages_are_codes(tmp_path: Path) -> None:
    assert card(tmp_path, "---\nlanguage: [en, de-AT, 3, 'no such: language']\n---\n").languages == ("en", "de-AT")
    assert card(tmp_path, "---\nlanguage: fr\n---\n").languages == ("fr",)


def test_licence_files_are_found_and_copied_byte_by_byte(tmp_path: Path) -> None:
    model, package = tmp_path / "model", tmp_path / "package"
    model.mkdir()
    package.mkdir()
    kept = {"LICENSE": b"a\r\nb", "NOTICE.txt": b"\xff", "Licence-MIT.md": b"c", "USE_POLICY.md": b"d", "COPYING": b"e"}
    for name, content in kept.items():
        (model / name).write_bytes(content)
    for name in ("license.py", "README.md", "notices.json", "MY_LICENSE"):
        (model / name).write_bytes(b"x")
    (model / "LICENSE.txt").write_bytes(b"x" * (MOST_BYTES + 1))
    os.mkfifo(model / "NOTICE")
    (model / "LICENSES").mkdir()
    write_notices(read_card(model), package)
    assert {p.name: p.read_bytes() for p in package.iterdir()} == kept


def source(found: SourceCard) -> Any:
    class Source:
        folder = Path("model")

    made = cast("Any", Source())
    made.card = found
    return made


def test_an_unknown_licence_is_said_once_and_stops_where_it_is_required() -> None:
    said: list[str] = []
    check_licence(source(SourceCard()), said.append, required=False)
    assert len(said) == 1
    assert "licence" in said[0]
    with pytest.raises(SourceError, match="does not state its licence") as caught:
        check_licence(source(SourceCard()), said.append, required=True)
    assert caught.value.exit_code == 4
    for known in (SourceCard(licence="mit"), SourceCard(notices={"LICENSE": Path("LICENSE")})):
        check_licence(source(known), said.append, required=True)
    assert len(said) == 1


def test_an_adapter_has_its_own_card_and_the_notices_of_both() -> None:
    own = SourceCard(languages=("de",), notices={"LICENSE": Path("own")})
    base = SourceCard(licence="llama3", languages=("en",), notices={"LICENSE": Path("base"), "NOTICE": Path("n")})
    found = joined(own, base)
    assert (found.licence, found.languages) == ("llama3", ("de",))
    assert found.notices == {"LICENSE": Path("own"), "base-LICENSE": Path("base"), "NOTICE": Path("n")}
    assert joined(replace(own, licence="mit"), base).licence == "mit"


def test_a_licence_of_the_hub_is_the_one_of_spdx_where_there_is_one() -> None:
    def shown(found: SourceCard) -> list[Any]:
        return [(one.id, one.name) for one in cast("Any", licences(found))]

    assert shown(SourceCard(licence="apache-2.0")) == [("Apache-2.0", None)]
    assert shown(SourceCard(licence="other", licence_name="llama3")) == [(None, "llama3")]
    assert shown(SourceCard(notices={"LICENSE": Path("x")})) == [(None, "LICENSE")]
    assert shown(SourceCard()) == []


def test_weights_in_parts_have_one_digest_whatever_their_order() -> None:
    assert weights_digest({"model.safetensors": "ab"}) == "ab"
    parts = {"b": "1", "a": "2"}
    assert weights_digest(parts) == weights_digest(dict(sorted(parts.items()))) != weights_digest({"b": "2", "a": "1"})
