"""Evaluation files: every shape that is read, every fault that is named by file and line."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.data.files import read_examples
from converter.errors import DataError
from converter.examples import Answer
from converter.registry import task_class
from converter.task import Task

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def task(name: str = "text-classification", labels: tuple[str, ...] = ("negative", "positive"), **config: Any) -> Task:
    table = {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "problem_type": None, **config}
    return task_class(name)(SimpleNamespace(**table))


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, wanted_task: Task | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        read_examples(path, wanted_task or task())
    return caught.value


# What is read


def test_each_line_of_a_txt_is_a_text_without_a_label(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one\r\n\n two \n")
    assert [(e.text, e.label, e.where) for e in read_examples(path, task())] == [
        ("one", None, f"{path}:1"),
        (" two ", None, f"{path}:3"),
    ]


@pytest.mark.parametrize("column", ["sentence", "text", "Text", " SENTENCE "])
def test_text_columns_go_by_their_common_names(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, "a.tsv", f"{column}\tlabel\ngood\t1\n")
    assert [(e.text, e.pair, e.label) for e in read_examples(path, task())] == [("good", None, 1)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("premise", "hypothesis"),
        ("question", "sentence"),
        ("#1 String", "#2 String"),
    ],
)
def test_pairs_go_by_the_names_of_glue(tmp_path: Path, first: str, second: str) -> None:
    path = write(tmp_path, "a.tsv", f"{first}\t{second}\tlabel\nA\tB\tpositive\n")
    assert [(e.text, e.pair, e.label) for e in read_examples(path, task())] == [("A", "B", 1)]


def test_labels_are_names_or_indices_and_names_win(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,positive\nb,0\nc,NEGATIVE\nd,\ne,-1\n")
    assert [e.label for e in read_examples(path, task())] == [1, 0, 0, None, None]
    stars = task(labels=("1", "2", "3"))
    assert [e.label for e in read_examples(write(tmp_path, "b.csv", "text,label\na,1\nb,3\n"), stars)] == [0, 2]
    rows = "".join(json.dumps({"text": "a", "label": v}) + "\n" for v in (1, 1.0, True, "positive"))
    assert [e.label for e in read_examples(write(tmp_path, "c.jsonl", rows), task())] == [1, 1, 1, 1]


def test_multi_label_rows_are_names_indices_or_flags(tmp_path: Path) -> None:
    emotions = task(labels=("joy", "anger", "fear"), problem_type="multi_label_classification")
    rows = [["joy", "fear"], [2], [0, 1], [], "anger, joy", "[0, 2]"]
    content = "".join(json.dumps({"text": "a", "labels": v}) + "\n" for v in rows)
    found = [e.label for e in read_examples(write(tmp_path, "a.jsonl", content), emotions)]
    assert found == [(1, 0, 1), (0, 0, 1), (1, 1, 0), (0, 0, 0), (1, 1, 0), (1, 0, 1)]


def test_scores_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "sentence1,sentence2,score\na,b,3.8\n")
    assert read_examples(path, task(labels=("LABEL_0",)))[0].label == 3.8


def test_a_similarity_pair_becomes_two_texts_of_one_group(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "sentence1,sentence2,score\na,b,3.8\nc,d,1\n")
    found = read_examples(path, task("feature-extraction"))
    assert [(e.text, e.pair, e.label) for e in found] == [
        ("a", None, 3.8),
        ("b", None, 3.8),
        ("c", None, 1),
        ("d", None, 1),
    ]
    assert found[0].group == found[1].group != found[2].group == found[3].group
    assert len({e.where for e in found}) == 4


def test_tags_are_names_or_the_models_indices(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["Anna", "left"], "ner_tags": [1, 0]},
        {"tokens": ["in", "Rome"], "tags": ["O", "B-LOC"]},
        {"words": ["yes"]},
        {"text": "plain text"},
    ]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    found = read_examples(path, task("token-classification", TAGS))
    assert [(e.words, e.label) for e in found] == [
        (("Anna", "left"), ("B-PER", "O")),
        (("in", "Rome"), ("O", "B-LOC")),
        (("yes",), None),
        (None, None),
    ]


def test_lists_in_table_cells_are_json_python_or_words(tmp_path: Path) -> None:
    content = "tokens\tner_tags\n[\"a\", \"b\"]\t[1, 0]\n['a', 'b']\t['B-PER', 'O']\na b\tB-PER O\n"
    found = read_examples(write(tmp_path, "a.tsv", content), task("token-classification", TAGS))
    assert [(e.words, e.label) for e in found] == [(("a", "b"), ("B-PER", "O"))] * 3


def test_answers_come_in_every_shape_of_squad(tmp_path: Path) -> None:
    context = "The line opened in 1903."
    wanted = Answer(("1903",), (19,))
    qa = task("question-answering")
    shapes = [{"text": ["1903"], "answer_start": [19]}, [{"text": "1903", "answer_start": 19}], ["1903"], "1903"]
    rows = [{"question": "When?", "context": context, "answers": s} for s in shapes]
    found = read_examples(write(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows)), qa)
    assert [e.label for e in found] == [wanted] * 4
    none = [
        {"question": "When?", "context": context, "answers": s} for s in ({"text": [], "answer_start": []}, [], [""])
    ]
    found = read_examples(write(tmp_path, "n.jsonl", "".join(json.dumps(r) + "\n" for r in none)), qa)
    assert [e.label for e in found] == [Answer((), ())] * 3
    squad = {"data": [{"paragraphs": [{"context": context, "qas": [{"question": "When?", "answers": shapes[1]}]}]}]}
    found = read_examples(write(tmp_path, "s.json", json.dumps(squad)), qa)
    assert [(e.text, e.pair, e.label) for e in found] == [("When?", context, wanted)]
    assert found[0].where.endswith("article 1, paragraph 1, question 1")


def test_any_text_file_serves_fill_mask(tmp_path: Path) -> None:
    found = read_examples(write(tmp_path, "a.csv", "text,label\nParis is in [MASK].,France\n"), task("fill-mask"))
    assert found[0].label == ("France",)
    # No label given: what stands in the text is the label, so the text is scored.
    assert read_examples(write(tmp_path, "a.txt", "Paris is in France.\n"), task("fill-mask"))[0].label == ()


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    for name, sep in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path, name, b"\xef\xbb\xbf" + f"text{sep}label\ncafé{sep}1\n".encode())
        assert [(e.text, e.label) for e in read_examples(path, task())] == [("café", 1)]


# Quotes


def test_quotes_in_a_glue_tsv_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'sentence\tlabel\n"so so\t0\nhe said "hi" twice\t1\n"all of it quoted"\t1\n')
    texts = [e.text for e in read_examples(path, task())]
    assert texts == ['"so so', 'he said "hi" twice', '"all of it quoted"']


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_quotes_that_a_writer_put_into_a_tsv_are_taken_off(tmp_path: Path, quoting: int) -> None:
    rows = [["sentence", "label"], ['he said "hi" twice', 1], ["a tab\there", 0], ["two\nlines", 1], ["plain", 0]]
    path = tmp_path / "a.tsv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(rows)
    found = read_examples(path, task())
    assert [[e.text, e.label] for e in found] == rows[1:]
    # The row after the one of two lines is named by its own line.
    assert [int(e.where.rsplit(":", 1)[1]) for e in found] == [2, 3, 4, 6]


def test_a_context_longer_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", f'text,label\n"{"long, " * 50_000}",1\n')
    before = csv.field_size_limit()
    assert len(read_examples(path, task())[0].text) == 300_000
    assert csv.field_size_limit() == before


# What is refused


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "dev.tsv", "x")
    error = refused(tmp_path / "dve.tsv")
    assert "no such file" in str(error)
    assert "'dev.tsv'" in error.hint


def test_a_folder_an_unknown_kind_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    assert "folder" in str(refused(tmp_path))
    assert "'.xlsx'" in str(refused(write(tmp_path, "a.xlsx", "x")))
    for name in ("a.txt", "a.tsv", "a.csv", "a.jsonl"):
        error = refused(write(tmp_path, name, ""))
        assert "no row" in str(error) or "empty" in str(error)
    assert "no row" in str(refused(write(tmp_path, "b.tsv", "sentence\tlabel\n")))
    assert "not JSON" in str(refused(write(tmp_path, "a.json", "")))


def test_a_byte_that_is_no_utf_8_is_named_by_line(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "a.tsv", b"sentence\tlabel\ngood\t1\ncaf\xe9\t0\n"))
    assert error.where.endswith("a.tsv:3")
    assert "byte 4" in str(error)
    assert "0xe9" in str(error)
    assert "UTF-8" in error.hint
    assert "UTF-16" in str(refused(write(tmp_path, "b.csv", "text,label\na,1\n".encode("utf-16"))))


@pytest.mark.parametrize(
    ("name", "content", "line", "message", "hint"),
    [
        ("a.tsv", "sentence\tlabel\ngood\t1\nbad\n", 3, "1 cells, the header 2", "tabs"),
        ("a.csv", "text,label\na,1\nb,c,1\n", 3, "3 cells, the header 2", "quotes"),
        ("a.csv", 'text,label\n"a,1\n', 2, "unbalanced quotes", '""'),
        ("a.tsv", "sentence\tlabel\ngood\t2\n", 2, "label 2", "negative, positive"),
        ("a.tsv", "sentence\tlabel\ngood\tnice\n", 2, "label 'nice'", "negative, positive"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', 2, "not JSON", ""),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', 2, "a row is list", "text"),
        ("a.jsonl", '{"text": "a"}\n{"text": 5}\n', 2, "text is 5", ""),
        ("a.jsonl", '{"text": "a"}\n{"txet": "b"}\n', 2, "found txet", "'text'"),
        ("a.tsv", "sentence\tlabell\ngood\t1\n", 2, "'labell'", "'label'"),
        ("a.tsv", "gj04\t1\t*\tOur friends will not come.\nx\t0\t*\ty\n", 1, "no known column", "header"),
        ("a.csv", "text;label\na;1\n", 1, "no known column", "separator"),
        ("a.tsv", "text,label\na,1\n", 1, "no known column", "separator"),
        ("a.csv", "text,text\na,b\n", 1, "two columns", ""),
        ("a.csv", "label\n1\n", 2, "found label; wanted sentence or text", ""),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: str, line: int, message: str, hint: str
) -> None:
    path = write(tmp_path, name, content)
    error = refused(path)
    assert error.where == f"{path}:{line}"
    assert message in str(error)
    assert hint in error.hint


@pytest.mark.parametrize("value", ["many", "nan", "inf"])
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "a.csv", f"sentence1,sentence2,score\na,b,1\nc,d,{value}\n")
    for wanted in (task(labels=("LABEL_0",)), task("feature-extraction")):
        error = refused(path, wanted)
        assert error.where == f"{path}:3"
        assert "number" in str(error)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "ner_tags": [0]}, "2 words and 1 tags"),
        ({"tokens": ["a"], "ner_tags": [5]}, "tag 5"),
        ({"tokens": ["a"], "ner_tags": ["B-ORG"]}, "tag 'B-ORG'"),
        ({"tokens": ["a", 1], "ner_tags": [0, 0]}, "something other than words"),
        ({"tokens": {"a": 1}}, "not a list"),
        ({"ner_tags": [0]}, "wanted tokens and ner_tags"),
    ],
)
def test_wrong_tags_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps(row) + "\n")
    error = refused(path, task("token-classification", TAGS))
    assert error.where == f"{path}:1"
    assert message in str(error)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["1903"], "answer_start": [18]}, "is not at character 18"),
        ({"text": ["1903"], "answer_start": [19, 3]}, "1 answers and 2 starts"),
        ({"text": [1903], "answer_start": [19]}, "something other than text"),
        ({"text": ["1903"], "answer_start": ["x"]}, "whole numbers"),
        (5, "answers are 5"),
    ],
)
def test_wrong_answers_are_refused(tmp_path: Path, answers: Any, message: str) -> None:
    row = {"question": "When?", "context": "The line opened in 1903.", "answers": answers}
    path = write(tmp_path, "a.jsonl", json.dumps(row) + "\n")
    error = refused(path, task("question-answering"))
    assert error.where == f"{path}:1"
    assert message in str(error)


def test_text_without_a_context_answers_no_question(tmp_path: Path) -> None:
    assert "wanted question and context" in str(
        refused(write(tmp_path, "a.txt", "Only text.\n"), task("question-answering"))
    )


def test_the_shared_data_reads_whole() -> None:
    folder = Path("../shared/data")
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    dev = read_examples(folder / "sst2" / "dev.tsv", task())
    assert len(dev) == 872
    assert sum(e.label == 1 for e in dev) == 444
    stsb = read_examples(folder / "stsb" / "dev.csv", task(labels=("LABEL_0",)))
    assert len(stsb) == 1500
    assert stsb[267].pair == 'a woman is standing by a pillar where "u2" is written.'
