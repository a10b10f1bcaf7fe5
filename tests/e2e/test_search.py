"""A whole search on a tiny model, and what it refuses before work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.api import load_recipe, verify
from converter.commands.cli import run
from converter.search.folder import BEST, LOCK, MARK, STUDY, TABLE
from tests.tiny import write_text

pytest.importorskip("optuna")


@pytest.fixture
def model(tiny: Callable[..., Path]) -> Path:
    return tiny("bert", layers=2)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_text(tmp_path / "train.tsv", 160)


@pytest.mark.slow
def test_a_goal_that_nothing_meets_keeps_the_nearest_package_and_says_how_far_it_is(
    model: Path, train: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dev, out = write_text(tmp_path / "dev.tsv", 60, seed=1), tmp_path / "out"
    text = ["--calibration", str(train), "--eval", str(dev), "--without", "factorize"]
    flags = ["--size-mb", "0.001", "--trials", "2", "--minutes", "30", "-o", str(out), "--json", "--quiet"]
    code = run(["search", str(model), "--target", "cpu-int8", *text, *flags])
    table = json.loads(capfd.readouterr().out)
    assert table == json.loads((out / TABLE).read_text(encoding="utf-8")) | {"out": table["out"]}
    winner = table["finalists"][0]
    assert winner["folder"] == BEST
    assert code == table["exit_code"] == 3
    assert "MB, at most 0.001 MB are wanted (" in table["missed"][0]
    sizes = {t["start"]: t["figures"]["megabytes"] for t in table["trials"]}
    assert sizes[winner["name"]] == min(sizes.values())
    assert [t["start"] for t in table["trials"]] == ["plain", "balanced"]
    assert table["text"]["n_learning"] + table["text"]["n_tuning"] == 160
    assert winner["eval"] is not None
    assert "losses" not in winner["eval"]
    package = out / BEST / str("cpu-int8" if winner["status"] != "FAIL" else "cpu-int8.rejected")
    if winner["status"] == "PASS":
        assert verify(package)
    recipe = load_recipe(out / BEST / "recipe.toml")
    assert recipe.calibration == out / "text" / "learning.jsonl"
    assert recipe.evaluation == dev
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "2 trials" in page
    assert sorted(p.name for p in out.iterdir()) == sorted({BEST, MARK, STUDY, TABLE, "report.html", "text"})
    assert not (out / LOCK).exists()


def flags_of(model: Path, train: Path, out: Path) -> list[str]:
    return [str(model), "--calibration", str(train), "--minutes", "0.01", "-o", str(out)]


def refused(capfd: pytest.CaptureFixture[str], *flags: str, code: int = 2) -> str:
    assert run(["search", *flags, "--json", "--quiet"]) == code
    error: dict[str, Any] = json.loads(capfd.readouterr().out)["error"]
    return f"{error['message']} | {error['hint']}"


def test_time_for_less_than_one_trial_is_refused_with_the_estimate(
    model: Path, train: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [str(model), "--calibration", str(train), "--minutes", "0.01", "-o", str(tmp_path / "out")]
    said = refused(capfd, *flags)
    assert "--minutes: 1 s are shorter than one trial, which takes about" in said
    assert "give at least" in said


def test_a_limit_on_the_metric_without_labels_is_refused(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = write_text(tmp_path / "plain.tsv", 100, labels=False)
    flags = [str(model), "--calibration", str(plain), "--max-drop", "1pt", "-o", str(tmp_path / "out")]
    assert "--max-drop needs labelled text" in refused(capfd, *flags)


def test_a_search_without_text_or_space_or_into_a_folder_of_others_is_refused(
    model: Path, train: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "--calibration" in refused(capfd, str(model), "-o", str(out))
    left_out = [f"--without={kind}" for kind in ("trim", "prune", "adapt", "share", "factorize", "distill", "dynamic")]
    text = [str(model), "--calibration", str(train), "-o", str(out)]
    assert "nothing is left to search" in refused(capfd, *text, *left_out)
    assert "wanted a number above 0" in refused(capfd, *text, "--latency-ms", "0")
    out.mkdir()
    (out / "mine.txt").write_text("keep", encoding="utf-8")
    assert "not of a search: mine.txt" in refused(capfd, *text)
    assert "not of a search: mine.txt" in refused(capfd, *text, "--force")
    assert (out / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_the_study_of_another_search_in_the_folder_is_refused_and_force_begins_again(
    model: Path, train: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / STUDY).write_text("not a database", encoding="utf-8")
    said = refused(capfd, *flags_of(model, train, out), "--force")
    assert "holds what is not of a search" in said
    assert (out / STUDY).exists()
    (out / MARK).touch()
    refused(capfd, *flags_of(model, train, out), "--force")
    assert not (out / STUDY).exists()
