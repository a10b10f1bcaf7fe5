"""A package is made, proven, sealed, verified; and damaged in every way, each of which must be found."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from converter import open_package, verify
from converter.errors import PackageDamaged
from converter.graphs import MODEL
from converter.jsonfile import json_text
from converter.package.golden import read_golden, write_golden
from converter.package.manifest import DIGEST, _digest, model_bytes, read_manifest
from tests.manifests import forge


@pytest.fixture
def package(plain_package: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain_package, tmp_path / "package")


def test_a_sealed_package_verifies(package: Path) -> None:
    found = verify(package)
    assert found["gate"] == "PASS"
    assert found["golden_texts"] == found["same_answers"] == 16
    assert found["change"] <= found["tolerance"]
    assert found["files"] == len([p for p in package.rglob("*") if p.is_file()]) - 1


def test_a_moved_package_opens_and_answers(package: Path) -> None:
    runner = open_package(package)
    golden = read_golden(package)
    feed = {name: ids[None] for name, ids in golden.ids[0].items()}
    np.testing.assert_allclose(runner.run(MODEL, feed)["logits"][0], golden.package[0]["logits"], atol=1e-5)


def test_the_manifest_holds_the_provenance_and_no_local_path(package: Path, plain_package: Path) -> None:
    text = (package / "manifest.json").read_text(encoding="utf-8")
    table = json.loads(text)
    for key in ("source", "recipe", "versions", "records", "gate", "graphs", "runtime", "rebuild", "limits"):
        assert table[key], key
    assert all(len(v) == 64 for v in table["source"]["weights_sha256"].values())
    assert len(table["recipe"]["eval"]["sha256"]) == 64
    assert str(plain_package.parent.parent) not in text
    assert str(Path.cwd()) not in text


def test_every_key_of_a_manifest_is_documented(package: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "package.md").read_text(encoding="utf-8")
    rows = page.partition("## Keys of manifest.json")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", "\n".join(line.split(" | ")[0] for line in rows.splitlines())))
    found = set(json.loads((package / "manifest.json").read_text(encoding="utf-8")))
    assert found <= documented
    assert documented - found <= {"beside"}, "only files for devices have it"


def test_the_readme_says_how_good_it_is_and_how_to_check(package: Path) -> None:
    text = (package / "README.md").read_text(encoding="utf-8")
    for needed in ("plm-export verify", "ORT_DISABLE_TELEMETRY", "| agreement | PASS |", "golden.safetensors"):
        assert needed in text


def test_one_changed_byte_of_any_file_is_found_and_named(package: Path) -> None:
    for path in sorted(p for p in package.rglob("*") if p.is_file()):
        data = path.read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(PackageDamaged, match=path.name if path.name != "manifest.json" else "manifest"):
            verify(package)
        path.write_bytes(data)
    verify(package)


def test_any_missing_file_is_named(package: Path) -> None:
    for path in sorted(p for p in package.rglob("*") if p.is_file()):
        hidden = path.rename(package.parent / "hidden")
        with pytest.raises(PackageDamaged, match=path.name):
            verify(package)
        hidden.rename(path)


def test_an_added_file_is_named(package: Path) -> None:
    (package / "onnx" / "extra.onnx").write_bytes(b"x")
    with pytest.raises(PackageDamaged, match=r"onnx/extra.onnx is not in the manifest"):
        verify(package)


def test_forged_golden_outputs_do_not_replay(package: Path) -> None:
    golden = read_golden(package)
    moved = golden.package[3]["logits"] + np.float32(0.05 * golden.output_range["logits"])
    golden.package[3]["logits"] = moved
    write_golden(golden, package)
    forge(package)
    with pytest.raises(PackageDamaged, match=r"differs by 0\.05 of its range"):
        verify(package)


def test_forged_golden_nan_does_not_replay(package: Path) -> None:
    golden = read_golden(package)
    golden.package[3]["logits"] = golden.package[3]["logits"] * np.float32(np.nan)
    write_golden(golden, package)
    forge(package)
    with pytest.raises(PackageDamaged):
        verify(package)


def test_forged_ids_are_not_the_tokenizers(package: Path) -> None:
    golden = read_golden(package)
    golden.ids[0]["input_ids"] = golden.ids[0]["input_ids"] + 1
    write_golden(golden, package)
    forge(package)
    with pytest.raises(PackageDamaged, match="the tokenizer gives different input_ids"):
        verify(package)


def test_another_model_under_the_same_name_does_not_replay(package: Path) -> None:
    import onnx
    from onnx import numpy_helper

    name = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["graphs"]["model"]["file"]
    model = onnx.load(str(package / name))
    matrix = max((w for w in model.graph.initializer if len(w.dims) == 2), key=lambda w: w.ByteSize())
    matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix) * np.float32(0.5), matrix.name))
    onnx.save(model, str(package / name))
    forge(package)
    with pytest.raises(PackageDamaged, match="golden vector"):
        verify(package)


def test_a_resealed_unchanged_file_still_verifies(package: Path) -> None:
    """The twin of the forgeries: `forge` alone breaks nothing."""
    forge(package)
    verify(package)


def as_format(number: int, folder: Path) -> None:
    """Write the manifest as an earlier version sealed it.

    2: with times and memory. 1: one graph, its file and its signature under names of their own.
    """
    table = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for key in ("resolved", "golden"):
        del table[key]
    table["gate"]["milliseconds"] = {"package": 1.0}
    table["records"] = [{**r, "seconds": 1.0, "peak_memory_bytes": 1} for r in table["records"]]
    table["format"] = number
    if number == 1:
        graph = table.pop("graphs")[MODEL]
        table |= {"model_file": graph["file"], "signature": graph["signature"]}
    table[DIGEST] = _digest(table)
    (folder / "manifest.json").write_text(json_text(table), encoding="utf-8")


@pytest.mark.parametrize("number", [1, 2])
def test_a_package_of_an_older_format_verifies_opens_and_answers_as_before(number: int, package: Path) -> None:
    wanted, feed = verify(package), {n: ids[None] for n, ids in read_golden(package).ids[0].items()}
    before = open_package(package).run(MODEL, feed)["logits"]
    as_format(number, package)
    assert verify(package) == wanted
    np.testing.assert_array_equal(open_package(package).run(MODEL, feed)["logits"], before)
    assert read_manifest(package)["graphs"][MODEL]["file"] == "onnx/model.onnx"


def test_a_package_of_format_1_is_no_less_checked(package: Path) -> None:
    as_format(1, package)
    table = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    for changes, said in (
        ({"signature": None}, "required entries are missing"),
        ({"signature": {**table["signature"], "outputs": table["signature"]["inputs"]}}, "the manifest says"),
        ({"model_file": "gone.onnx"}, "none of its files"),
    ):
        changed = table | changes
        changed[DIGEST] = _digest(changed)
        (package / "manifest.json").write_text(json_text(changed), encoding="utf-8")
        with pytest.raises(PackageDamaged, match=said):
            verify(package)


def test_a_manifest_that_format_1_really_wrote_is_read(tmp_path: Path) -> None:
    """Sealed by 0.1 (commit f999752) from a tiny RoBERTa: its digest and its spelling are what that version wrote."""
    shutil.copy(Path(__file__).with_name("manifest-format-1.json"), tmp_path / "manifest.json")
    manifest = read_manifest(tmp_path)
    graph = manifest["graphs"][MODEL]
    assert graph["file"] == "onnx/model_fp16.onnx"
    assert [t["name"] for t in graph["signature"]["outputs"]] == ["start_logits", "end_logits"]
    assert model_bytes(manifest) > 0


def test_a_manifest_that_format_2_really_wrote_is_read(tmp_path: Path) -> None:
    """Sealed by commit 76e0ebc from a tiny BERT, for phones: the last one with times in it."""
    shutil.copy(Path(__file__).with_name("manifest-format-2.json"), tmp_path / "manifest.json")
    manifest = read_manifest(tmp_path)
    assert manifest["graphs"][MODEL]["file"] == "model.tflite"
    assert manifest["gate"]["milliseconds"]["package"] > 0
    assert model_bytes(manifest) > 0


def test_a_graph_that_the_manifest_describes_otherwise_is_told(package: Path) -> None:
    forge(package, lambda table: table["graphs"][MODEL]["inputs"][0].update(side="above"))
    with pytest.raises(PackageDamaged, match="required entries are missing"):
        verify(package)


def test_records_say_what_went_in_and_came_out_by_digest(package: Path) -> None:
    manifest = read_manifest(package)
    (record,) = manifest["records"]
    assert record["digest_made"] == manifest["files"]["onnx/model.onnx"]["sha256"], "what was exported is what ships"
    assert len(record["digest_given"]) == 64
