"""Models past what one file can hold: the weights lie beside the graph, under names that clients look for."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.api import convert, verify
from converter.errors import PackageDamaged, StageFailed
from converter.onnx.external import copy_onnx, data_files
from converter.validate.checks import Status
from tests.tiny_text import save_causal

LIMIT = 60_000
"""Bytes that a file may have here, instead of 2 GB."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a model of more bytes than the limit; do not write into it."""
    from converter.onnx import write

    source = save_causal(tmp_path_factory.mktemp("external") / "model")
    out = tmp_path_factory.mktemp("external-out") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "MAX_FILE_BYTES", LIMIT)
        (target,) = convert(
            {"model": str(source), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}}, out
        ).targets
    assert target.status is Status.PASS, target.error
    return out / "cpu-int8"


def test_the_weights_lie_beside_the_graph_in_files_of_at_most_the_limit(package: Path) -> None:
    files = sorted(p.name for p in (package / "onnx").iterdir())
    assert files[:3] == ["model.onnx", "model.onnx_data", "model.onnx_data_1"]
    sizes = {p.name: p.stat().st_size for p in (package / "onnx").iterdir()}
    assert sum(sizes.values()) > 2 * LIMIT
    assert max(sizes.values()) <= LIMIT
    told = json.loads((package / "config.json").read_text())["transformers.js_config"]
    assert told["use_external_data_format"] == {"model.onnx": len(files) - 1}


def test_they_count_in_the_size_and_the_hashes_and_the_difference_to_another_package(package: Path) -> None:
    from converter.package.manifest import model_bytes, read_manifest
    from converter.report.package_diff import differences

    manifest = read_manifest(package)
    assert model_bytes(manifest) == sum(p.stat().st_size for p in (package / "onnx").iterdir())
    other = json.loads(json.dumps(manifest))
    other["files"]["onnx/model.onnx_data_1"]["sha256"] = "0" * 64
    assert list(differences(manifest, other)) == ["file.onnx/model.onnx_data_1"]
    assert verify(package)["gate"] == "PASS"


@pytest.mark.parametrize("damage", ["changed", "missing", "more"])
def test_weights_that_changed_or_are_missing_are_seen(damage: str, package: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(package, tmp_path / "package"))
    file = made / "onnx" / "model.onnx_data_1"
    if damage == "changed":
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    elif damage == "missing":
        file.unlink()
    else:
        (made / "onnx" / "model.onnx_data_9").write_bytes(b"x")
    with pytest.raises(PackageDamaged, match=r"model\.onnx_data_"):
        verify(made)


def test_a_copy_under_another_name_takes_its_weights_along_and_answers_alike(package: Path, tmp_path: Path) -> None:
    from converter.onnx.read import read_onnx
    from converter.onnx.runner import open_session

    copy_onnx(package / "onnx" / "model.onnx", tmp_path / "model_quantized.onnx")
    names = [p.name for p in data_files(tmp_path / "model_quantized.onnx")]
    assert names[:2] == ["model_quantized.onnx_data", "model_quantized.onnx_data_1"]
    assert len(names) == len(data_files(package / "onnx" / "model.onnx"))
    open_session(tmp_path / "model_quantized.onnx")
    before, after = (read_onnx(p) for p in (package / "onnx" / "model.onnx", tmp_path / "model_quantized.onnx"))
    for name, value in before.graph.initializers.items():
        wanted, found = (v.const_value for v in (value, after.graph.initializers[name]))
        assert wanted is not None
        assert found is not None
        np.testing.assert_array_equal(wanted.numpy(), found.numpy())


def test_what_is_read_and_written_again_has_the_same_bytes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.onnx import write
    from converter.onnx.read import read_onnx

    whole = tmp_path / "whole.onnx"
    write.write_onnx(read_onnx(package / "onnx" / "model.onnx"), whole)
    assert data_files(whole) == []
    monkeypatch.setattr(write, "MAX_FILE_BYTES", LIMIT)
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "model.onnx"
    write.write_onnx(read_onnx(whole), again)
    for made in (again, *data_files(again)):
        assert made.read_bytes() == (package / "onnx" / made.name).read_bytes(), made.name


@pytest.mark.parametrize("location", ["../golden.safetensors", "/etc/passwd", "config.json", ""])
def test_a_file_whose_weights_lie_elsewhere_is_refused(location: str, package: Path, tmp_path: Path) -> None:
    import onnx

    from converter.onnx.read import read_onnx

    copy_onnx(package / "onnx" / "model.onnx", tmp_path / "model.onnx")
    proto: Any = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    header = next(t for t in proto.graph.initializer if t.external_data)
    next(entry for entry in header.external_data if entry.key == "location").value = location
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(StageFailed, match="lies in"):
        read_onnx(tmp_path / "model.onnx")


def test_a_weight_that_is_twice_beside_a_graph_is_judged_by_the_bytes_of_both(package: Path) -> None:
    """By the graph's own bytes alone, a few biases of nothing would be most of the file."""
    from converter.onnx.stored_once import check_stored_once
    from converter.validate.stored_once import check_repeats

    path = package / "onnx" / "model.onnx"
    assert check_stored_once([path]).status is Status.PASS
    small = [("a", np.zeros(1024, np.float32)), ("b", np.zeros(1024, np.float32))]
    assert check_repeats([path], lambda _: small).status is Status.PASS
    large = int(sum(p.stat().st_size for p in path.parent.iterdir()) * 0.06 / 4)
    twice = [(name, np.zeros(large, np.float32)) for name in "ab"]
    assert check_repeats([path], lambda _: twice).status is Status.FAIL


@pytest.mark.parametrize("limit", [LIMIT, 10 * LIMIT], ids=["beside", "inside"])
def test_a_size_is_kept_whether_weights_lie_beside_the_graph_or_in_it(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.model_folder.load import load_source
    from converter.onnx import write
    from converter.onnx.export import ExportOnnx
    from converter.onnx.external import stored_bytes
    from converter.quantize.int4 import Int4Blocks
    from converter.stage import Context, run_stage

    monkeypatch.setattr(write, "MAX_FILE_BYTES", limit)
    source = load_source(str(save_causal(tmp_path / "model")))
    given, _ = run_stage(ExportOnnx(), source, Context(work=tmp_path))
    assert bool(data_files(given.files["model"])) is (limit == LIMIT)
    sizes = []
    for most in (0.0, 0.048, 1.0):
        (work := tmp_path / str(most)).mkdir()
        made = Int4Blocks(method="rtn", size_mb=most).run(given, Context(work=work)).made
        sizes.append(stored_bytes(made.files["model"]))
    assert sizes[0] < sizes[1] <= 48_000 < sizes[2]
