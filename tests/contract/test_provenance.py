"""One export with all that a release needs: licence, notices, model card, bill of materials, signature."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from converter import convert, verify
from converter.errors import PackageDamaged, SourceError
from converter.model_folder.load import sha256_file
from converter.package.sbom import BOM
from converter.pipeline import Result

Tiny = Callable[..., Path]
CARD = "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n# A model\n"


@pytest.fixture(scope="module")
def model(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "my-model"
    shutil.copytree(tiny("bert", "text-classification", layers=1), folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "LICENSE").write_bytes(b"Permission is granted\r\n")
    (folder / "NOTICE").write_bytes(b"Made by somebody\n")
    return folder


def export(model: Path, out: Path, **options: Any) -> Result:
    recipe = {"model": str(model), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}, "probes": 20}
    result = convert(recipe, out, **options)
    assert result.exit_code == 0
    return result


@pytest.fixture(scope="module")
def package(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, tmp_path_factory.mktemp("made") / "out", require_licence=True).out / "cpu-int8"


def test_licence_and_notices_go_with_the_package_and_are_sealed(package: Path) -> None:
    files = json.loads((package / "manifest.json").read_text())["files"]
    assert (package / "LICENSE").read_bytes() == b"Permission is granted\r\n"
    assert (package / "NOTICE").read_bytes() == b"Made by somebody\n"
    assert {"LICENSE", "NOTICE", BOM, "README.md"} <= set(files)


def test_the_model_card_says_where_the_package_comes_from(package: Path, model: Path) -> None:
    text = (package / "README.md").read_text(encoding="utf-8")
    table = yaml.safe_load(text.split("---")[1])
    assert table == {
        "license": "apache-2.0",
        "base_model_sha256": sha256_file(model / "model.safetensors"),
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "language": ["en", "de"],
        "tags": ["plm-export", "cpu-int8"],
    }
    assert "licence: apache-2.0, `LICENSE`, `NOTICE`" in text
    assert "| agreement | PASS |" in text


def bom_of(package: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((package / BOM).read_text(encoding="utf-8"))
    return table


def faults(table: dict[str, Any]) -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(table))


def test_the_bill_of_materials_is_valid_and_a_broken_one_is_not(package: Path) -> None:
    pytest.importorskip("jsonschema")
    table = bom_of(package)
    assert faults(table) is None
    assert faults(table | {"serialNumber": "x"}) is not None
    table["metadata"]["component"]["modelCard"]["wonder"] = 1
    assert faults(table) is not None


def test_the_bill_of_materials_names_the_model_its_source_and_what_made_it(package: Path, model: Path) -> None:
    table = bom_of(package)
    made = table["metadata"]["component"]
    assert made["type"] == "machine-learning-model"
    assert made["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert made["hashes"] == [{"alg": "SHA-256", "content": sha256_file(package / "onnx" / "model.onnx")}]
    (ancestor,) = made["pedigree"]["ancestors"]
    assert ancestor["hashes"][0]["content"] == sha256_file(model / "model.safetensors")
    assert made["modelCard"]["modelParameters"]["task"] == "text-classification"
    assert {m["type"] for m in made["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]} >= {
        "agreement with the source"
    }
    scopes = {c["name"]: c["scope"] for c in table["components"] if c["type"] == "library"}
    assert (scopes["onnxruntime"], scopes["torch"]) == ("required", "excluded")
    files = {c["name"] for c in table["components"] if c["type"] == "file"}
    assert {"LICENSE", "NOTICE", "onnx/model.onnx", "tokenizer.json", "golden.safetensors"} <= files


def test_the_same_model_elsewhere_gives_the_same_bill_and_a_given_time_alone_is_in_it(
    package: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = shutil.copytree(model, tmp_path / "elsewhere" / "my-model")
    made = export(again, tmp_path / "other").out / "cpu-int8"
    assert (made / BOM).read_bytes() == (package / BOM).read_bytes()
    assert (made / "README.md").read_bytes() == (package / "README.md").read_bytes()
    assert "timestamp" not in bom_of(package)["metadata"]
    from converter.package.sbom import _time

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert _time() == {"timestamp": "2023-11-14T22:13:20+00:00"}
    assert faults(bom_of(package) | {"metadata": bom_of(package)["metadata"] | _time()}) is None


def test_a_model_without_a_licence_stops_before_work_where_one_is_required(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.pipeline.capture_reference", None)  # work begins there
    recipe = {"model": str(tiny("bert", "text-classification", layers=1)), "targets": ["cpu-int8"]}
    with pytest.raises(SourceError, match="does not state its licence"):
        convert(recipe, tmp_path / "out", require_licence=True)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_passed_is_signed_by_the_export_and_verified_by_the_key(package: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="the extra `signing` is not installed")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from converter import sign

    private = Ed25519PrivateKey.generate()
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(private.private_bytes(*formats))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "public.pem").write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    assert "signed_by" not in verify(copy)
    with pytest.raises(PackageDamaged, match="not signed"):
        verify(copy, key=tmp_path / "public.pem")
    sign(copy, tmp_path / "key.pem")
    assert verify(copy)["signed_by"] == "not checked"
    assert len(verify(copy, key=tmp_path / "public.pem")["signed_by"]) == 64
    (copy / "NOTICE").unlink()
    with pytest.raises(PackageDamaged, match="NOTICE is missing"):
        verify(copy, key=tmp_path / "public.pem")
