"""Data files as nobody should send them: read in linear time, or refused by name."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter.data.files import LONGEST_LINE, read_data, read_texts
from converter.data.literals import parse_literal
from converter.data.names import read_label_map
from converter.data.survey import MOST_COLUMNS
from converter.errors import DataError, RecipeError
from converter.recipe import bind_recipe, load_recipe_table
from converter.registry import task_class

TASK = task_class("text-classification")(SimpleNamespace(num_labels=2, id2label={0: "no", 1: "yes"}, problem_type=None))
SECONDS = 5.0


def refused(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises(DataError) as raised:
        read_data(path, TASK, judged=True)
    assert time.monotonic() - started < SECONDS
    return str(raised.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_table_of_a_million_columns_is_refused_at_once(suffix: str, tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(300_000)]
    path = tmp_path / f"rows{suffix}"
    if suffix.startswith(".json"):
        row = "{" + ",".join(f'"{n}":1' for n in names) + "}"
        path.write_text(f"[{row}]" if suffix == ".json" else row)
    else:
        path.write_text((",", "\t")[suffix == ".tsv"].join(["text", *names]) + "\n")
    assert "columns" in refused(path)


def test_as_many_columns_as_may_be_are_read(tmp_path: Path) -> None:
    names = ["text", "label", *(f"c{i}" for i in range(MOST_COLUMNS - 2))]
    (tmp_path / "rows.csv").write_text(f"{','.join(names)}\na,yes{',1' * (MOST_COLUMNS - 2)}\n")
    assert [e.label for e in read_data(tmp_path / "rows.csv", TASK).examples] == [1]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt"])
def test_pipes_and_endless_devices_are_refused(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    assert "a pipe" in refused(tmp_path / f"pipe{suffix}")
    assert "a device" in refused(tmp_path / f"zero{suffix}")


def test_a_line_without_an_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "rows.txt").open("wb") as opened:
        opened.truncate(10**10)  # a hole of 10 GB that takes no disk
    assert f"more than {LONGEST_LINE // 10**6} MB" in refused(tmp_path / "rows.txt")


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "a", "label": ' + "9" * 5000 + "}",
        '{"text": "a", "label": NaN}',
        '{"text": "\\ud800"}',
        "[" * 100_000,
        '{"text": ' + "[" * 500 + "]" * 500 + "}",
        "\ufeff7",
    ],
)
def test_odd_json_is_refused_by_its_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    assert "rows.jsonl:1" in refused(tmp_path / "rows.jsonl")


def test_many_labels_on_one_line_take_linear_time(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("__label__yes " * 200_000 + "a text\n")
    started = time.monotonic()
    assert list(read_texts(tmp_path / "rows.txt")) == ["a text"]
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize(
    "text", ["[" + "1" * 50 + "x", "[" + "1 " * 30 + "x", "[" + "1." * 40 + "x]", "{[]: 1}", "[[" * 200]
)
def test_a_cell_that_is_no_list_is_told_at_once(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"neither|not a plain value"):
        parse_literal(text)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize(
    ("text", "wanted"), [("[3 0 7]", [3, 0, 7]), ("[1. -2.5]", [1.0, -2.5]), ("[ ]", []), ("[12]", [12])]
)
def test_arrays_are_read_as_before(text: str, wanted: list[float]) -> None:
    assert parse_literal(text) == wanted


def test_label_maps_and_recipes_are_bounded_too(tmp_path: Path) -> None:
    for name in ("labels.json", "labels.toml", "labels.tsv"):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(RecipeError, match="a device"):
            read_label_map(tmp_path / name)
    os.mkfifo(tmp_path / "recipe.toml")
    with pytest.raises(RecipeError, match="a pipe"):
        load_recipe_table(tmp_path / "recipe.toml")
    with pytest.raises(RecipeError, match="NUL"):
        bind_recipe({"model": "a\0b"})
