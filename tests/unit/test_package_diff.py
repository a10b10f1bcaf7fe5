"""Two packages side by side, and the Markdown that a pull request shows."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from converter.errors import UsageError
from converter.package.answer import read_texts_to_ask, texts_to_ask
from converter.report.markdown import SHOWN_ANSWERS, markdown
from converter.report.package_diff import (
    Answers,
    ChangedAnswer,
    PackageDiff,
    _is_vector,
    _same,
    differences,
)

HOSTILE = "a | b `c` <img src=x> @somebody [x](y)\n\x1b[31m#1"


def made(**changes: Any) -> PackageDiff:
    table: dict[str, Any] = {
        "name": "cpu-int8",
        "facts": {
            "precision": {"old": "none", "new": "static"},
            "source.licence": {"old": None, "new": "mit"},
            "stages": {"old": ["export.onnx"], "new": ["export.onnx", "StaticInt8"]},
            "file.x": {"old": "ab", "new": "cd"},
        },
        "size_bytes": (90_000_000, 23_000_000),
        "milliseconds": (8.0, None),
        "status": ("PASS", "PASS"),
        "metric": {"accuracy": (0.91, 0.9)},
        "operators": {"MatMul": (36, 0), "MatMulInteger": (0, 36), "Add": (10, 12)},
        "answers": Answers(20, 19, (ChangedAnswer("a text", "good", "bad"),), "the given texts"),
    }
    return PackageDiff(**(table | changes))


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[re.sub("</?code>", "", cell.strip()) for cell in line.strip("|").split("|")] for line in lines]


def test_the_document_shows_size_speed_metric_agreement_answers_and_operators() -> None:
    text = markdown([made()])
    found = rows(text)
    assert ["size", "90.0 MB", "23.0 MB", "-74.4 %"] in found
    assert ["latency", "8.00 ms", "–", ""] in found
    assert ["accuracy", "0.9100", "0.9000", "-1.1 %"] in found
    assert ["precision", "none", "static", ""] in found
    assert ["source.licence", "–", "mit", ""] in found
    assert ["stages", "export.onnx", "export.onnx, StaticInt8", ""] in found
    assert ["a text", "good", "bad"] in found
    assert ["MatMul", "36", "–", "removed"] in found
    assert ["MatMulInteger", "–", "36", "added"] in found
    assert ["Add", "10", "12", ""] in found
    assert "19 of 20 (95.0 %) texts get the same answer (the given texts)." in text
    assert "file.x" not in text


def test_what_was_not_compared_is_said_and_is_no_agreement() -> None:
    text = markdown([made(answers=Answers(reason="litert is not installed"), operators={})], ["tflite"], ["ort-gpu"])
    assert "**Answers were not compared**: litert is not installed." in text
    assert "texts get" not in text
    assert "New package: `tflite`" in text
    assert "Gone: `ort-gpu`" in text
    assert "**Operators**: the same." in text


def test_texts_of_users_are_shown_as_code_and_break_nothing() -> None:
    changed = (ChangedAnswer(HOSTILE, HOSTILE, "x" * 1000),)
    text = markdown([made(answers=Answers(1, 0, changed, "the given texts"), name=HOSTILE)])
    (line,) = [line for line in text.splitlines() if "xxx" in line]
    assert line.count("|") == 4
    assert line.count("<code>") == line.count("</code>") == 3
    assert not re.search(r"<img|`|\x1b|x{200}", line)


def test_many_changed_answers_are_counted_and_not_all_shown() -> None:
    changed = tuple(ChangedAnswer(f"text {i}", "a", "b") for i in range(SHOWN_ANSWERS + 3))
    text = markdown([made(answers=Answers(100, 77, changed, "the given texts"))])
    assert "… and 3 more." in text
    assert "text 0" in text
    assert f"text {SHOWN_ANSWERS + 1}" not in text


def test_vectors_are_the_same_by_their_direction_and_words_by_themselves() -> None:
    assert _same(("", [1.0, 0.0]), ("", [2.0, 0.01]))
    assert not _same(("", [1.0, 0.0]), ("", [1.0, 0.5]))
    assert not _same(("", [1.0, 0.0]), ("", [1.0, 0.0, 0.0]))
    assert not _is_vector([("a", "O")])
    assert _same(("good", "good"), ("good", "good"))
    assert not _same(("good", "good"), ("bad", "bad"))
    assert not _same(("", [("a", "O")]), ("", [("a", "B-PER")]))


def test_facts_that_differ_are_listed_and_equal_ones_are_not() -> None:
    old = {"target": "tflite", "precision": "none", "gate": {"status": "PASS"}}
    new = old | {"precision": "static"}
    assert differences(old, old) == {}
    assert differences(old, new) == {"precision": {"old": "none", "new": "static"}}


def test_files_of_texts_that_cannot_be_asked_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    for content in (b"", b"\n \n", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(UsageError):
            read_texts_to_ask(file)
    file.write_bytes("Größe\n\nzwei\n".encode())
    assert read_texts_to_ask(file) == ["Größe", "zwei"]
    with pytest.raises(UsageError, match="no such file"):
        read_texts_to_ask(tmp_path / "none")


def test_a_line_is_one_text_whatever_unicode_calls_a_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\u2028still\x0cone\x85\r\ntwo".encode())
    assert read_texts_to_ask(file) == ["one\u2028still\x0cone\x85", "two"]


def test_lines_are_the_same_in_a_file_as_on_stdin(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content := b"one\rtwo\r\n\rthree\n\nfour\r")
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    assert read_texts_to_ask(file) == texts_to_ask(stdin.read(), "stdin") == ["one", "two", "three", "four"]
