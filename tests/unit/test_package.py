"""Seal and manifest: what a sealed folder promises, and what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import Bundle, TorchModel
from converter.errors import PackageDamaged
from converter.examples import Example
from converter.graphs import MODEL
from converter.jsonfile import json_text, json_values
from converter.model_folder.load import load_source
from converter.package.golden import MAX_VALUES, N_TEXTS, choose, read_golden, record_golden, write_golden
from converter.package.manifest import DIGEST, _digest, check_files, read_manifest, seal
from converter.package.seal import portable_recipe, relaxed, without_paths
from converter.package.verify import verify_package
from converter.recipe import bind_recipe
from converter.reference import Reference, capture_reference
from converter.registry import target_class, target_names
from converter.stage import SILENT
from converter.validate.checks import Check, Evaluation, Status
from tests.tiny import SENTENCES
from tests.torch_runner import TorchRunner

HEAD = {
    "target": "cpu-int8",
    "precision": "none",
    "task": "text-classification",
    "graphs": {"model": {"file": "model.onnx"}},
}


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


@pytest.fixture(scope="module")
def reference(model: TorchModel) -> Reference:
    return capture_reference(model, [Example(s) for s in SENTENCES], SILENT)


@pytest.fixture
def sealed(model: TorchModel, tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"0123456789")
    (folder / "sub" / "notes.txt").write_text("notes\n", encoding="utf-8")
    seal(Bundle(folder, {MODEL: "model.onnx"}, model), HEAD)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Change the manifest as somebody would who knows how it is made."""
    table = json.loads((folder / "manifest.json").read_text(encoding="utf-8")) | changes
    table[DIGEST] = _digest(table)
    (folder / "manifest.json").write_text(json_text(table), encoding="utf-8")


def test_a_sealed_folder_is_read_and_checked(sealed: Path) -> None:
    assert check_files(sealed, read_manifest(sealed)) == 2


@pytest.mark.parametrize("name", ["model.onnx", "sub/notes.txt"])
def test_a_changed_byte_is_found_in_every_file(sealed: Path, name: str) -> None:
    data = bytearray((sealed / name).read_bytes())
    data[3] ^= 1
    (sealed / name).write_bytes(data)
    with pytest.raises(PackageDamaged, match=f"{name} has changed"):
        check_files(sealed, read_manifest(sealed))


def test_missing_and_added_files_are_all_named(sealed: Path) -> None:
    (sealed / "sub" / "notes.txt").unlink()
    (sealed / "sub" / "new.txt").write_text("", encoding="utf-8")
    with pytest.raises(PackageDamaged, match=r"sub/notes.txt is missing; sub/new.txt is not in the manifest"):
        check_files(sealed, read_manifest(sealed))


def test_every_byte_of_the_manifest_counts(sealed: Path) -> None:
    path = sealed / "manifest.json"
    data = path.read_bytes()
    for i in range(len(data)):
        changed = bytearray(data)
        changed[i] ^= 1
        path.write_bytes(changed)
        with pytest.raises(PackageDamaged):
            read_manifest(sealed)
    path.write_bytes(data)
    read_manifest(sealed)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../b", "..\\outside", "C:/x", ""])
def test_names_that_lead_out_of_the_folder_are_refused(sealed: Path, name: str) -> None:
    files = json.loads((sealed / "manifest.json").read_text(encoding="utf-8"))["files"]
    rewrite(sealed, files=files | {name: {"sha256": "0" * 64, "size_bytes": 1}})
    with pytest.raises(PackageDamaged, match="outside the package"):
        read_manifest(sealed)


def test_a_link_is_no_file_of_a_package(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "same.txt"
    other.write_text("notes\n", encoding="utf-8")
    (sealed / "sub" / "notes.txt").unlink()
    (sealed / "sub" / "notes.txt").symlink_to(other)
    with pytest.raises(PackageDamaged, match=r"sub/notes.txt is a link"):
        check_files(sealed, read_manifest(sealed))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"target": 3},
        {"graphs": {"model": {"file": "other.onnx"}}},
        {"graphs": {}},
        {"graphs": ["model"]},
        {"files": {"model.onnx": "x"}},
        {"format": 3},
    ],
)
def test_a_manifest_without_what_every_package_has_is_refused(sealed: Path, changes: dict[str, object]) -> None:
    rewrite(sealed, **changes)
    with pytest.raises(PackageDamaged):
        read_manifest(sealed)


def test_an_honest_rewrite_is_read(sealed: Path) -> None:
    rewrite(sealed, task="fill-mask")
    assert read_manifest(sealed)["task"] == "fill-mask"


def test_a_rejected_folder_is_refused_as_rejected(sealed: Path) -> None:
    (sealed / "manifest.json").rename(sealed / "rejected.json")
    with pytest.raises(PackageDamaged, match="this package failed its gate"):
        read_manifest(sealed)


def test_a_folder_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageDamaged, match="not a sealed package"):
        read_manifest(tmp_path)


def test_json_has_no_nan() -> None:
    found = json_values(asdict(Evaluation((Check("x", Status.FAIL, math.inf),), (), math.nan, {}, {}, 0)))
    assert found["agreement"] is None
    assert found["checks"][0]["value"] is None
    assert found["checks"][0]["status"] == "FAIL"
    assert json_values({"a": (np.float32(0.5), np.int64(3), True)}) == {"a": [0.5, 3, True]}
    assert json_values({1: {2}, "b": [np.float32("nan"), np.bool_(True), Path("x"), "\ud83d"]}) == {
        "1": [2],
        "b": [None, True, "x", "?"],
    }


COMPLETE = {
    "max_length": 64,
    "replay_tolerance": 0.05,
    "target_options": {},
    "gate": {"status": "PASS", "checks": [{"name": "finite", "status": "PASS"}]},
}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"gate": value} for value in (None, {}, {"status": "PASS"}, {"status": "PASS", "checks": [{}]})),
        *({name: value} for name in COMPLETE for value in (None, "x")),
    ],
)
def test_a_manifest_that_lacks_what_verify_reads_is_damaged_not_a_bug(sealed: Path, wrong: dict[str, object]) -> None:
    rewrite(sealed, **(COMPLETE | wrong))
    with pytest.raises(PackageDamaged, match=f"no readable {next(iter(wrong))}"):
        verify_package(sealed)
    rewrite(sealed, **COMPLETE)
    with pytest.raises(PackageDamaged, match="golden vectors"):
        verify_package(sealed)


def test_no_path_of_this_machine_is_in_a_portable_recipe(tmp_path: Path) -> None:
    data = tmp_path / "private" / "dev.tsv"
    data.parent.mkdir()
    data.write_text("sentence\tlabel\na\t1\n", encoding="utf-8")
    recipe = bind_recipe({"model": str(tmp_path / "secret"), "targets": ["cpu-int8"], "eval": str(data)})
    table = portable_recipe(recipe, "secret")
    assert str(tmp_path) not in json.dumps(table)
    assert table["model"] == "secret"
    assert table["eval"]["file"] == "dev.tsv"
    assert len(table["eval"]["sha256"]) == 64
    assert without_paths({"a": [data], "b": str(data), "c": "a/b"}) == {"a": ["dev.tsv"], "b": "dev.tsv", "c": "a/b"}


def test_weakened_limits_are_told_and_strengthened_ones_are_not() -> None:
    weak = bind_recipe({"targets": ["cpu-int8"], "limits": {"agreement": 0.5}})
    strong = bind_recipe({"targets": ["cpu-int8"], "limits": {"agreement": 1.0}})
    target = weak.targets[0]
    assert any(line.startswith("agreement: 0.5 instead of") for line in relaxed(weak, target, "dynamic"))
    assert not relaxed(strong, target, "dynamic")


def test_golden_vectors_come_back_as_written_and_in_the_same_bytes(
    model: TorchModel, reference: Reference, tmp_path: Path
) -> None:
    golden = record_golden(model, model, reference, TorchRunner(model))
    assert len(golden.examples) == N_TEXTS
    write_golden(golden, tmp_path)
    first = (tmp_path / "golden.safetensors").read_bytes()
    found = read_golden(tmp_path)
    assert found.examples == golden.examples
    for i in range(N_TEXTS):
        for kind in ("ids", "package", "source"):
            for name, value in getattr(golden, kind)[i].items():
                np.testing.assert_array_equal(getattr(found, kind)[i][name], value)
    write_golden(found, tmp_path)
    assert (tmp_path / "golden.safetensors").read_bytes() == first


def test_golden_texts_are_short_and_long_and_differ_in_their_answers(model: TorchModel, reference: Reference) -> None:
    chosen = choose(reference, model.task)
    lengths = [p.encoding.length for p in reference.probes]
    assert min(lengths) in {lengths[i] for i in chosen}
    assert len({reference.decisions[i] for i in chosen}) > 1


def test_wide_outputs_mean_fewer_golden_texts(model: TorchModel, reference: Reference) -> None:
    from dataclasses import replace

    wide = {"logits": np.zeros(MAX_VALUES // 4, np.float32)}
    heavy = replace(reference, judged=tuple(replace(j, outputs=wide) for j in reference.judged))
    assert 2 <= len(choose(heavy, model.task)) <= 4


def test_broken_golden_vectors_are_named(tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(PackageDamaged, match="golden vectors cannot be read"):
        read_golden(tmp_path)


def test_exact_precisions_are_replayed_more_tightly_than_int8() -> None:
    menus = [target_class(name).menu() for name in target_names()]
    known = {p.name: p.tolerance for menu in menus for p in menu.values()}
    assert known["none"] < known["fp16"] < known["static"] == known["dynamic"]
