"""Nothing outside a model's folder is read: links are followed inside it, or to the blobs of its own Hub cache."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from converter.bounds.files import sha256_file
from converter.errors import SourceError
from converter.model_folder.load import load_source

Tiny = Callable[..., Path]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("bert", "text-classification", layers=1), tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        load_source(str(folder))
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return str(caught.value)


def lead(link: Path, target: Path) -> None:
    """Move what lies at `link` to `target`, and leave a relative link to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    link.rename(target)
    link.symlink_to(os.path.relpath(target, link.parent))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "README.md"])
def test_a_link_that_leads_out_of_the_folder_is_refused_by_name(name: str, folder: Path) -> None:
    if name == "README.md":
        (folder / name).write_text("private\n", encoding="utf-8")
    lead(folder / name, folder.parent / "private" / name)
    assert f"{name} is a link to {folder.parent}/private/{name}" in refused(folder)


def test_a_link_to_nothing_is_judged_by_where_it_leads(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("nothing")
    assert load_source(str(folder)).size_bytes  # inside, and nobody reads it
    (folder / "notes.txt").unlink()
    (folder / "notes.txt").symlink_to("../nothing")
    assert "notes.txt is a link to" in refused(folder)


def test_a_folder_that_is_a_link_elsewhere_is_refused_and_so_is_one_in_a_circle(folder: Path) -> None:
    (folder.parent / "data").mkdir()
    (folder / "1_Pooling").symlink_to(folder.parent / "data")
    assert "1_Pooling is a link" in refused(folder)
    (folder / "1_Pooling").unlink()
    (folder / "loop").symlink_to("loop")
    assert "loop is a link to itself" in refused(folder)


def test_a_link_inside_the_folder_is_followed_and_what_it_leads_to_is_hashed(folder: Path) -> None:
    lead(folder / "model.safetensors", folder / "store" / "first")
    lead(folder / "config.json", folder / "store" / "second")
    source = load_source(str(folder))
    assert source.provenance.weights_sha256 == {"model.safetensors": sha256_file(folder / "store" / "first")}


def test_a_folder_may_be_reached_through_a_link(folder: Path) -> None:
    (folder.parent / "latest").symlink_to("model")
    assert load_source(str(folder.parent / "latest")).size_bytes


def as_hub_cache(folder: Path, root: Path) -> Path:
    """Lay the files of a model as the Hub's library does: blobs, and a snapshot of links to them."""
    snapshot = root / "models--org--name" / "snapshots" / "0123abcd"
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        blob = root / "models--org--name" / "blobs" / sha256_file(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_snapshot_of_a_hub_cache_is_read_through_its_links(tiny_sentence_transformer: Path, tmp_path: Path) -> None:
    snapshot = as_hub_cache(tiny_sentence_transformer, tmp_path / "hub")
    plain, linked = load_source(str(tiny_sentence_transformer)), load_source(str(snapshot))
    assert linked.digest == plain.digest
    assert linked.provenance.weights_sha256 == plain.provenance.weights_sha256


@pytest.mark.parametrize("place", ["models--org--other/blobs", "private"])
def test_a_snapshot_leads_to_no_blobs_but_its_own(place: str, folder: Path, tmp_path: Path) -> None:
    snapshot = as_hub_cache(folder, tmp_path / "hub")
    lead(snapshot / "config.json", tmp_path / "hub" / place / "file")
    assert "config.json is a link to" in refused(snapshot)


def test_blobs_that_are_a_link_themselves_are_not_the_caches_own(folder: Path, tmp_path: Path) -> None:
    snapshot = as_hub_cache(folder, tmp_path / "hub")
    lead(snapshot.parents[1] / "blobs", tmp_path / "elsewhere")
    assert "is a link to" in refused(snapshot)


def test_the_base_of_an_adapter_is_held_to_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    table = {"peft_type": "LORA", "r": 2, "target_modules": ["query"], "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(table), encoding="utf-8")
    save_file(load_file(folder / "model.safetensors"), adapter / "adapter_model.safetensors")
    lead(folder / "config.json", tmp_path / "private.json")
    assert "config.json is a link to" in refused(adapter)


def test_weights_of_an_index_are_those_that_are_hashed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    table = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    found = load_source(str(folder)).provenance.weights_sha256
    assert found == {"model-00001-of-00001.safetensors": sha256_file(folder / "model-00001-of-00001.safetensors")}
    # Twin: the same table, with the weights one folder up, is refused before anything is loaded.
    shutil.move(folder / "model-00001-of-00001.safetensors", folder.parent / "outside.safetensors")
    table["weight_map"] = dict.fromkeys(tensors, "../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    assert "'../outside.safetensors'" in refused(folder)
