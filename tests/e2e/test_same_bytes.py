"""The same model, recipe and versions give the same bytes, whatever folder, threads, hash seed and environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from converter.commands import cli
from converter.errors import UsageError
from converter.package.rebuilt import compare_packages
from tests.manifests import forge, manifest_of
from tests.tiny import SENTENCES

ROOT = Path(__file__).parents[2]
MAIN = """
import json, sys
from converter.commands.cli import run
sys.argv[0] = "plm-export"
sys.exit(max(run(words) for words in json.loads(sys.argv[1])))
"""
"""Runs several command lines in one process: each process of its own takes seconds to import the libraries."""
ORDER = "order"


def plm_export(*lines: Sequence[str], cwd: Path, seed: int, threads: int) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": str(seed),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "FILLER": "x" * (911 * seed),
    }
    command = [sys.executable, "-c", MAIN, json.dumps(lines)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def twice(tmp_path: Path, lines: dict[str, Sequence[str]]) -> list[Path]:
    """Export in two processes that have nothing in common but models and flags; returns the folders of outputs."""
    places = []
    for i in (1, 2):
        place = tmp_path / ("a" if i == 1 else "b/much/deeper")
        place.mkdir(parents=True)
        words = [[*line, "-o", f"{name}{i}", "-q"] for name, line in lines.items()]
        code, _, err = plm_export(*words, cwd=place, seed=5 * i, threads=i)
        assert code == 0, err
        places.append(place)
    return places


@pytest.fixture(scope="module")
def places(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")
    folder = tmp_path_factory.mktemp("same")
    (folder / "texts.txt").write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")
    targets = ("-t", "cpu-int8", "-t", "tflite", "-t", "ort-gpu", "--quantize", "cpu-int8=none")
    more = ("--seq-len", "16,64", "--limit", "agreement=0.8", "--eval", str(folder / "texts.txt"))
    order = (str(tiny("modernbert", layers=2)), "-t", "cpu-int8", "--quantize", "none")
    return twice(folder, {"out": (str(tiny()), *targets, *more), ORDER: order})


@pytest.fixture(scope="module")
def exported(places: list[Path]) -> list[Path]:
    return [place / f"out{i}" for i, place in enumerate(places, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu-int8", "tflite", "ort-gpu"])
def test_two_runs_that_share_nothing_give_the_same_package(exported: list[Path], target: str) -> None:
    found = compare_packages(*(out / target for out in exported))
    assert found.same, found.sentence()
    assert found.n_files > 5


@pytest.mark.slow
def test_the_order_of_sets_does_not_show_in_a_graph(places: list[Path]) -> None:
    """ModernBERT's graph was written in another order with another hash seed."""
    found = compare_packages(*(place / f"{ORDER}{i}" / "cpu-int8" for i, place in enumerate(places, 1)))
    assert found.same, found.sentence()


@pytest.mark.slow
def test_a_package_is_rebuilt_from_its_manifest_alone_and_a_change_is_named(
    exported: list[Path], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Away from its output folder, from a copy of the model under another name, without the run's other targets."""
    package = Path(shutil.copytree(exported[0] / "cpu-int8", tmp_path / "package"))
    model = Path(shutil.copytree(tiny(), tmp_path / "another-name"))
    changed = Path(shutil.copytree(package, tmp_path / "changed"))
    (changed / "README.md").write_text("another", encoding="utf-8")
    forge(changed, lambda t: t["gate"].update(agreement=0.5))
    more = (str(model), "--data", str(exported[0].parents[1]), "--check", "--json")
    lines = [("rebuild", name, *more) for name in ("package", "changed")]
    code, out, err = plm_export(*lines, cwd=tmp_path, seed=3, threads=2)
    assert code == 3, err
    same, end = json.JSONDecoder().raw_decode(out)
    other = json.loads(out[end:])
    assert same["differing"] == []
    assert other["differing"] == ["README.md", "manifest.json"]
    assert other["keys"] == ["gate.agreement"]


def test_no_time_and_no_memory_stands_in_a_package(exported: list[Path]) -> None:
    for target in ("cpu-int8", "tflite", "ort-gpu"):
        text = (exported[0] / target / "manifest.json").read_text(encoding="utf-8")
        for word in ("seconds", "millisec", "_ms", "peak_memory", "per_second"):
            assert word not in text, (target, word)


def test_what_was_measured_is_shown_from_the_report_beside_the_package(
    exported: list[Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["inspect", str(exported[0] / "cpu-int8")]) == 0
    shown = capfd.readouterr().out
    assert "latency" in shown
    assert " s)" in shown
    assert cli.run(["inspect", str(shutil.copytree(exported[0] / "cpu-int8", tmp_path / "alone"))]) == 0
    assert "latency" not in capfd.readouterr().out


def test_a_rebuild_refuses_another_model_and_other_data(
    exported: list[Path], tiny: Callable[..., Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    package = str(shutil.copytree(exported[0] / "cpu-int8", tmp_path / "package"))
    (tmp_path / "texts.txt").write_text("others\n", encoding="utf-8")
    for argv, said in (
        ([], "the source 'bert-text-classification' is not found"),
        ([str(tiny())], "the recipe's file texts.txt is not found"),
        ([str(tiny()), "--data", str(tmp_path)], "is not the file that was used"),
        ([str(tiny("distilbert", layers=1)), "--data", str(exported[0].parents[1])], "another model than the one"),
    ):
        assert cli.run(["rebuild", package, *argv, "--check"]) == UsageError.exit_code, argv
        assert said in capfd.readouterr().err


def test_the_recipe_of_a_package_is_its_own(exported: list[Path]) -> None:
    table = manifest_of(exported[0] / "ort-gpu")
    assert table["recipe"]["targets"] == ["ort-gpu"]
    assert table["recipe"]["quantize"] == {"ort-gpu": {"precision": "fp16"}}
    assert "resolved" in table
