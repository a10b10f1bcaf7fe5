"""One export with all that a release needs: licence, notices, model card, bill of materials, signature."""

import html
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from converter import convert, verify
from converter.bounds.files import sha256_file
from converter.commands.cli import run
from converter.errors import PackageDamaged, SourceError
from converter.package.sbom import BOM
from converter.pipeline import Result
from converter.report.markdown import markdown
from converter.report.package_diff import compare_packages
from tests.tiny import SENTENCES

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
    package: Path, model: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(model, tmp_path / "elsewhere" / "my-model")
    made = export(again, tmp_path / "other").out / "cpu-int8"
    assert (made / BOM).read_bytes() == (package / BOM).read_bytes()
    assert (made / "README.md").read_bytes() == (package / "README.md").read_bytes()
    assert "timestamp" not in bom_of(package)["metadata"]
    from converter.package.sbom import _time

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        assert _time() == {"timestamp": "2023-11-14T22:13:20+00:00"}
        assert faults(bom_of(package) | {"metadata": bom_of(package)["metadata"] | _time()}) is None


@pytest.fixture(scope="module")
def other(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model in int8: its answers and its operators differ."""
    recipe = {"model": str(tiny("bert", "text-classification", layers=1, seed=1)), "targets": ["cpu-int8"]}
    loose = {"agreement": 0.1, "max_error": 9.0, "mean_error": 9.0, "cosine": 0.1, "stability": 0.1}
    recipe |= {"quantize": {"cpu-int8": "dynamic"}, "probes": 20, "limits": loose}
    result = convert(recipe, tmp_path_factory.mktemp("other") / "out")
    assert result.exit_code == 0, result.targets[0].error
    return result.out / "cpu-int8"


def test_a_package_differs_from_itself_in_nothing(package: Path) -> None:
    found = compare_packages(package, package)
    assert (found.facts, found.operators) == ({}, {})
    assert found.answers.n_same == found.answers.n_texts > 5
    assert found.milliseconds[0] is not None


def test_packages_of_two_models_differ_in_answers_and_operators_which_are_shown(package: Path, other: Path) -> None:
    texts = list(SENTENCES[:10])
    found = compare_packages(package, other, texts)
    assert found.answers.n_texts == 10
    assert 0 < len(found.answers.changed) == 10 - found.answers.n_same
    assert found.answers.changed[0].old != found.answers.changed[0].new
    # The operators are those that ONNX itself counts.
    wanted = [Counter(n.op_type for n in onnx.load(next(p.rglob("*.onnx"))).graph.node) for p in (package, other)]
    differing = {n: (wanted[0][n], wanted[1][n]) for n in {*wanted[0], *wanted[1]} if wanted[0][n] != wanted[1][n]}
    assert found.operators == differing != {}
    text = markdown([found])
    assert html.escape(found.answers.changed[0].text) in text
    assert "| added |" in text.replace("<code>", "").replace("</code>", "")


def test_diff_takes_outputs_of_several_packages_and_writes_to_stdout_alone(
    package: Path, other: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["diff", str(other.parent), str(package.parent), "--markdown", "-q"]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("## plm-export: what changed\n")
    assert "### cpu-int8" in said.out
    assert said.err == ""
    assert run(["diff", str(package), str(package), "--texts", "x.txt"]) == 2
    assert "add --markdown" in capfd.readouterr().err


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
