"""The folder of a search: what is not its own, or was changed since, stays as it is."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.data.split import TextSplit
from converter.errors import UsageError
from converter.model_folder.load import load_source
from converter.search.binding import model_digest
from converter.search.folder import MARK, STUDY, TEXT, SearchFolder
from converter.search.goal import Goal
from converter.search.space import Space
from converter.search.study import open_study


def enter(root: Path, *, force: bool = False) -> SearchFolder:
    folder = SearchFolder(root)
    with folder.held(lambda _: None, force=force):
        return folder


@pytest.mark.parametrize("name", ["work", "text", "finalists", "report.html", "search.json"])
@pytest.mark.parametrize("force", [False, True])
def test_what_has_a_name_of_a_search_is_not_a_search(name: str, force: bool, tmp_path: Path) -> None:
    mine = tmp_path / name if "." in name else tmp_path / name / "thesis.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("a year")
    with pytest.raises(UsageError, match="the folder holds what is not of a search"):
        enter(tmp_path, force=force)
    assert mine.read_text() == "a year"


def test_a_folder_that_a_search_has_marked_is_entered_again(tmp_path: Path) -> None:
    enter(tmp_path / "out")
    (tmp_path / "out" / TEXT / "learning.jsonl").write_text("{}")
    enter(tmp_path / "out")
    assert (tmp_path / "out" / TEXT / "learning.jsonl").exists()
    enter(tmp_path / "out", force=True)
    assert not (tmp_path / "out" / TEXT / "learning.jsonl").exists()
    assert (tmp_path / "out" / MARK).exists()


def split(folder: SearchFolder, said: str) -> TextSplit:
    place = folder.new_text()
    for name in ("learning.jsonl", "tuning.jsonl"):
        (place / name).write_text(said)
    return TextSplit(place / "learning.jsonl", place / "tuning.jsonl", 1, 1, said)


def test_the_text_of_a_study_is_not_written_over_by_another(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    with folder.held(lambda _: None, force=False):
        assert folder.with_text(split(folder, "one")).learning.read_text() == "one"
        folder.study.touch()
        folder.with_text(split(folder, "one"))
        with pytest.raises(UsageError, match="of another text"):
            folder.with_text(split(folder, "two"))
        assert (folder.text / "learning.jsonl").read_text() == "one"


@pytest.mark.parametrize("name", ["a?b", "a#1", "a{x}", "a%41", "a b"])
def test_a_study_lies_where_it_should_whatever_the_folder_is_called(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / name
    folder.mkdir()
    for _ in range(2):  # made, and found again
        open_study(folder / STUDY, Space(("cpu-int8",)), Goal(), (), {"model": "m"}, seed=0)
    assert [p.name for p in folder.iterdir()] == [STUDY]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_that_is_no_study_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / STUDY).write_text("my notes")
    with pytest.raises(UsageError, match="not the file of a study"):
        open_study(tmp_path / STUDY, Space(("cpu-int8",)), Goal(), (), {"model": "m"}, seed=0)
    assert (tmp_path / STUDY).read_text() == "my notes"
    (tmp_path / STUDY).unlink()
    with sqlite3.connect(tmp_path / STUDY) as opened:
        opened.execute("create table mine (x)")
    with pytest.raises(UsageError, match="not the file of a study"):
        open_study(tmp_path / STUDY, Space(("cpu-int8",)), Goal(), (), {"model": "m"}, seed=0)


def test_a_model_is_another_with_another_tokenizer_or_labels_but_not_in_another_place(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """The same weights read other tokens then: a study of one tells nothing of the other."""
    places = {name: shutil.copytree(tiny("bert"), tmp_path / name) for name in ("a", "b", "labels", "tokens")}
    config = json.loads((places["labels"] / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {n: f"other {label}" for n, label in config["id2label"].items()}
    config["label2id"] = {label: int(n) for n, label in config["id2label"].items()}
    (places["labels"] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((places["tokens"] / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (places["tokens"] / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    digests = {name: model_digest(load_source(str(place))) for name, place in places.items()}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3
