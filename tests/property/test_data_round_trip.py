"""Whatever text a writer puts into a table or JSON lines comes back."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.data.delimited import is_quoted
from converter.data.files import read_examples
from converter.registry import task_class

TASK = task_class("text-classification")(SimpleNamespace(num_labels=2, id2label={0: "no", 1: "yes"}, problem_type=None))
# A lone carriage return is a line end to some writers and text to others: no table tells them apart.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=30)
ROWS = st.lists(st.tuples(TEXT, st.integers(0, 1)), min_size=1, max_size=6)
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@FILES
@given(ROWS, st.sampled_from([(".csv", ","), (".tsv", "\t")]))
def test_quoted_tables_come_back(tmp_path: Path, rows: Any, kind: Any) -> None:
    suffix, delimiter = kind
    path = tmp_path / f"rows{suffix}"
    # QUOTE_ALL, and one cell that shows it: a table in which nothing needs quotes may be read as raw text.
    table = [("sentence", "label"), *rows, ('a "b"\tc', 1)]
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)
    assert [(e.text, e.label) for e in read_examples(path, TASK)] == table[1:]


@FILES
@given(st.lists(st.tuples(TEXT.filter(lambda t: not set(t) & set("\t\n")), st.integers(0, 1)), min_size=1, max_size=6))
def test_raw_tables_come_back(tmp_path: Path, rows: Any) -> None:
    # A quotation mark that no writer would have left shows that the table is raw.
    table = [*rows, ('he said "hi', 1)]
    path = tmp_path / "rows.tsv"
    path.write_bytes(("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in table)).encode())
    assert [(e.text, e.label) for e in read_examples(path, TASK)] == table


@FILES
@given(ROWS)
def test_json_lines_come_back(tmp_path: Path, rows: Any) -> None:
    path = tmp_path / "rows.jsonl"
    content = "".join(json.dumps({"text": t, "label": n}, ensure_ascii=False) + "\n" for t, n in rows)
    path.write_bytes(content.encode())
    assert [(e.text, e.label) for e in read_examples(path, TASK)] == rows


@given(ROWS)
def test_what_a_writer_quoted_is_known_for_quoted(rows: Any) -> None:
    made = io.StringIO(newline="")
    csv.writer(made, delimiter="\t", lineterminator="\n").writerows(rows)
    content = made.getvalue()
    assert is_quoted(lambda: iter(content.splitlines(keepends=True))) == ('"' in content) or _breaks_lines(content)


def _breaks_lines(content: str) -> bool:
    """`str.splitlines` breaks at more than line feeds; files are read at line feeds alone."""
    return len(content.splitlines()) != content.count("\n")
