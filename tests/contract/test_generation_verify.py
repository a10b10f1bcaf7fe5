"""`verify` of packages that write text: what is forged in one, with its hashes made anew, is found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.api import convert, verify
from converter.errors import GateFailed, PackageDamaged
from converter.package.golden import ANSWER, WRITTEN, read_golden, write_golden
from tests.manifests import forge
from tests.tiny_text import save_marian


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of a tiny translator: two graphs; do not write into it."""
    folder = tmp_path_factory.mktemp("marian")
    recipe = {"model": str(save_marian(folder / "model")), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}}
    (target,) = convert(recipe, folder / "out").targets
    assert target.error is None, target.error
    return folder / "out" / "cpu-int8"


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "package"))


def _swapped(table: dict[str, Any]) -> None:
    one, other = table["graphs"].values()
    one["file"], other["file"] = other["file"], one["file"]


def _same_file(table: dict[str, Any]) -> None:
    for graph in table["graphs"].values():
        graph["file"] = "onnx/encoder_model.onnx"


@pytest.mark.parametrize("change", [_swapped, _same_file, lambda t: t["graphs"].popitem()])
def test_graphs_that_are_in_other_files_are_found(package: Path, change: Callable[[dict[str, Any]], object]) -> None:
    forge(package, change)
    with pytest.raises(PackageDamaged):
        verify(package)


@pytest.mark.parametrize("name", [ANSWER, WRITTEN])
def test_golden_texts_without_what_was_written_are_found(package: Path, name: str) -> None:
    golden = read_golden(package)
    write_golden(replace(golden, ids=tuple({k: v for k, v in i.items() if k != name} for i in golden.ids)), package)
    forge(package)
    with pytest.raises(PackageDamaged, match="lack what source and package wrote"):
        verify(package)


def test_settings_that_write_another_text_are_found(package: Path) -> None:
    path = package / "generation_config.json"
    first = next(int(ids[WRITTEN][0]) for ids in read_golden(package).ids if len(ids[WRITTEN]) > 1)
    table = json.loads(path.read_text(encoding="utf-8")) | {"suppress_tokens": [first]}
    path.write_text(json.dumps(table), encoding="utf-8")
    forge(package)
    with pytest.raises(PackageDamaged, match=r"where it wrote|recorded was"):
        verify(package)


def test_a_setting_that_its_record_does_not_know_is_no_damage(package: Path) -> None:
    """So were packages of opus-mt sealed: their source's file came along, and nothing was recorded of that key."""
    _settings(package, renormalize_logits=True)
    verify(package)


@pytest.mark.parametrize(
    "changed", [{"num_beams": 4}, {"bad_words_ids": [[1]]}, {"forced_eos_token_id": None}], ids=str
)
def test_settings_that_judging_does_not_use_are_found_all_the_same(package: Path, changed: dict[str, Any]) -> None:
    _settings(package, renormalize_logits=True, **changed)
    with pytest.raises(PackageDamaged, match=r"generation settings is .* recorded was"):
        verify(package)


def _settings(package: Path, **changed: Any) -> None:
    path = package / "generation_config.json"
    table = json.loads(path.read_text(encoding="utf-8")) | changed
    path.write_text(json.dumps(table), encoding="utf-8")
    forge(package)


def test_a_translator_that_was_not_proven_is_no_yes_and_a_proven_one_is(package: Path) -> None:
    forge(package)
    verify(package)
    forge(package, lambda t: t["gate"].update(status="NOT_RUN"))
    with pytest.raises(GateFailed, match="not proven"):
        verify(package)
