"""Seal and manifest: what a sealed folder promises, and what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import Bundle, Provenance, TorchModel
from converter.errors import GateFailed, PackageDamaged
from converter.examples import Example
from converter.graphs import MODEL, TensorSpec
from converter.jsonfile import json_text, json_values
from converter.model_folder.load import load_source
from converter.package import schema
from converter.package.golden import MAX_VALUES, N_TEXTS, choose, read_golden, record_golden, write_golden
from converter.package.manifest import DIGEST, _digest, check_files, read_manifest, seal
from converter.package.schema import MOST_BYTES
from converter.package.seal import portable_recipe, relaxed, without_paths
from converter.package.verify import verify_package
from converter.recipe import bind_recipe
from converter.reference import Reference, capture_reference
from converter.registry import target_class, target_names
from converter.stage import SILENT, Record
from converter.validate.checks import Check, Deviation, Evaluation, Status
from tests.manifests import complete, forge
from tests.tiny import SENTENCES
from tests.torch_runner import TorchRunner

HEAD = complete()


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
        {"format": 99},
    ],
)
def test_a_manifest_without_what_every_package_has_is_refused(sealed: Path, changes: dict[str, object]) -> None:
    rewrite(sealed, **changes)
    with pytest.raises(PackageDamaged):
        read_manifest(sealed)


@pytest.mark.parametrize(
    ("made", "kept", "elsewhere"),
    [
        (Check, schema.Check, set()),
        (Deviation, schema.Deviation, set()),
        (Evaluation, schema.Gate, {"errors", "worst", "milliseconds"}),
        (Record, schema.Record, {"seconds", "peak_memory_bytes", "cached"}),
        (Provenance, schema.Source, set()),
        (TensorSpec, schema.Tensor, set()),
    ],
)
def test_the_schema_has_a_place_for_all_that_is_sealed(made: Any, kept: Any, elsewhere: set[str]) -> None:
    """A new field of a check or a record needs a line in converter/package/schema.py, or must stay out of manifests."""
    names = {f.name for f in fields(made)} - elsewhere
    assert names <= set(kept.__struct_fields__), f"{kept.__name__} lacks {names - set(kept.__struct_fields__)}"


def test_an_honest_rewrite_is_read(sealed: Path) -> None:
    rewrite(sealed, task="fill-mask")
    assert read_manifest(sealed)["task"] == "fill-mask"


def test_a_rejected_folder_is_refused_as_rejected(sealed: Path) -> None:
    (sealed / "manifest.json").rename(sealed / "rejected.json")
    with pytest.raises(GateFailed, match="this package failed its gate"):
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


@pytest.mark.parametrize("name", [*HEAD, "files"])
def test_a_manifest_that_lacks_an_entry_or_has_another_type_there_is_damaged_not_a_bug(sealed: Path, name: str) -> None:
    before = json.loads((sealed / "manifest.json").read_text(encoding="utf-8"))
    for wrong in (3.5, "x", [[]], {"x": []}):
        (sealed / "manifest.json").write_text(json_text(before), encoding="utf-8")
        rewrite(sealed, **{name: wrong})
        if name in {"prompt", "target", "precision", "task", "platform", "runtime"} and wrong == "x":
            continue  # a word, which others than this reader look at
        if (name, wrong) in (("recipe", {"x": []}), ("target_options", {"x": []})):
            continue  # free tables
        with pytest.raises(PackageDamaged):
            verify_package(sealed)
    rewrite(sealed, **before)
    table = {k: v for k, v in before.items() if k != name}
    table[DIGEST] = _digest(table)
    (sealed / "manifest.json").write_text(json_text(table), encoding="utf-8")
    if name != "prompt":
        with pytest.raises(PackageDamaged, match="required entries"):
            verify_package(sealed)


def test_a_sound_manifest_is_read_up_to_what_lies_beside_it(sealed: Path) -> None:
    """The twin of the faults above."""
    with pytest.raises(PackageDamaged, match="golden vectors"):
        verify_package(sealed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2, "x": NaN}', "NaN is no number"),
        ('{"format": 2, "x": -Infinity}', "Infinity is no number"),
        ('{"format": true}', "a format that this version does not read"),
        ('{"format": 99}', "a format that this version does not read"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 2, "x": "\\ud800"}', "has changed since it was sealed"),
        ('{"format": 2, "x": 1e999}', "has changed since it was sealed"),
        (" " * (MOST_BYTES + 1), "more than 8 MB"),
    ],
)
def test_text_that_is_no_manifest_is_refused_by_cause(sealed: Path, text: str, said: str) -> None:
    (sealed / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(PackageDamaged, match=said):
        read_manifest(sealed)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(more=1),
        lambda t: t["gate"].update(approved=True),
        lambda t: t["gate"]["checks"].append({"name": "x", "status": "PASS", "by": "me"}),
        lambda t: t["source"].update(homepage="x"),
        lambda t: t["files"]["model.onnx"].update(mode=7),
        lambda t: t["graphs"]["model"].update(hidden=[]),
        lambda t: t.update(replay_tolerance=1e9),
        lambda t: t.update(max_length=0),
        lambda t: t.update(lengths=[8] * 10_001),
        lambda t: t["files"]["model.onnx"].update(sha256="0" * 63),
        lambda t: t["files"]["model.onnx"].update(size_bytes=-1),
    ],
)
def test_keys_that_nobody_knows_and_values_out_of_bounds_are_refused(sealed: Path, change: Any) -> None:
    forge(sealed, change)
    with pytest.raises(PackageDamaged, match="required entries are missing from the manifest, or it has others"):
        read_manifest(sealed)


def test_a_manifest_that_is_no_regular_file_is_refused_and_not_waited_for(sealed: Path) -> None:
    import os

    (sealed / "manifest.json").rename(sealed / "real.json")
    os.mkfifo(sealed / "manifest.json")
    with pytest.raises(PackageDamaged, match="no regular file"):
        read_manifest(sealed)
    (sealed / "manifest.json").unlink()
    (sealed / "manifest.json").symlink_to("real.json")
    with pytest.raises(PackageDamaged, match="a link"):
        read_manifest(sealed)


def test_a_folder_that_is_linked_into_a_package_is_named(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sealed / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageDamaged, match="more is a link that is not in the manifest"):
        check_files(sealed, read_manifest(sealed))


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
