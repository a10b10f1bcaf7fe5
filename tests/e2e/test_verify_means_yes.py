"""`verify` passes no package that was not proven, and none that was forged with its hashes made anew."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter import convert, verify
from converter.commands import cli
from converter.errors import GateFailed, PackageDamaged
from converter.package.golden import read_golden, write_golden
from converter.package.stored_sums import StoredSums
from converter.package.sweep import NOTHING
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE
from tests.manifests import forge, manifest_of
from tests.tiny import SENTENCES

ASSETS = "samples/assets"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(
    plain_package: Path, tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return `made(target)`: the package of a tiny model in float32; do not write into it."""
    known = {"cpu-int8": plain_package}
    folder = tmp_path_factory.mktemp("means-yes")
    texts = folder / "texts.txt"
    texts.write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")

    def make(target: str) -> Path:
        if target not in known:
            recipe = {"model": str(tiny()), "targets": [target], "quantize": {target: "none"}, "eval": str(texts)}
            recipe["target"] = {"tflite": {"seq_len": [16, 64]}} if target == "tflite" else {}
            result = convert(recipe, folder / target)
            assert result.exit_code == 0, result.targets[0].error
            known[target] = folder / target / target
        return known[target]

    return make


@pytest.fixture
def package(made: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(made("cpu-int8"), tmp_path / "package")


@pytest.fixture
def mobile(made: Callable[[str], Path], tmp_path: Path) -> Path:
    pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")
    return shutil.copytree(made("tflite"), tmp_path / "mobile")


def code_of(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.run(["verify", *argv])
    said = capfd.readouterr()
    return code, said.out, said.err


def _failed(table: dict[str, Any]) -> None:
    next(c for c in table["gate"]["checks"] if c["name"] == "agreement")["status"] = "FAIL"


def _undecided(table: dict[str, Any]) -> None:
    next(c for c in table["gate"]["checks"] if c["name"] == "agreement")["status"] = "NOT_RUN"


def _without_checks(table: dict[str, Any]) -> None:
    table["gate"]["checks"] = []


def _without_decisive_checks(table: dict[str, Any]) -> None:
    table["gate"]["checks"] = [c for c in table["gate"]["checks"] if c["name"] not in {"agreement", "max_error"}]


def _strange(table: dict[str, Any]) -> None:
    table["gate"]["checks"][0]["status"] = "APPROVED"


UNPROVEN: list[Change] = [
    *(lambda t, word=word: t["gate"].update(status=word) for word in ("FAIL", "NOT_RUN", "PERFECT", "pass", "")),
    _failed,
    _undecided,
    _without_checks,
    _without_decisive_checks,
    _strange,
]


@pytest.mark.parametrize("change", UNPROVEN)
def test_a_package_that_was_not_proven_is_no_yes(package: Path, change: Change) -> None:
    forge(package, change)
    with pytest.raises(GateFailed, match="not proven"):
        verify(package)


def test_a_manifest_written_anew_and_unchanged_is_still_a_yes(package: Path) -> None:
    """The twin of every forgery here: writing it anew breaks nothing."""
    forge(package)
    assert verify(package)["gate"] == "PASS"


DAMAGED: list[tuple[Change, str]] = [
    (lambda t: t.update(replay_tolerance=0.5), "are replayed within 0.0001"),
    (lambda t: t.update(replay_tolerance=0.00011), "are replayed within 0.0001"),
    (lambda t: t.update(replay_tolerance=0), "are replayed within 0.0001"),
    (lambda t: t.update(precision="perfect"), "has no precision 'perfect'"),
    (lambda t: t["graphs"]["model"].update(file="README.md"), "says that the model model is README.md"),
    (lambda t: t["graphs"]["model"].update(file="gone.onnx"), "none of its files"),
    (lambda t: t.update(labels=t["labels"][::-1]), "the manifest has the labels"),
    (lambda t: t.update(labels=[]), "the manifest has the labels"),
    (lambda t: t.update(target="phone"), "there is no target 'phone'"),
    (lambda t: t.update(target="ort-gpu", precision="int4"), "has no precision"),
    (lambda t: t.update(target_options={"colour": "red"}), "unknown option 'colour'"),
    (lambda t: t.update(task="mind-reading"), "there is no task 'mind-reading'"),
    (lambda t: t.update(lengths=[16]), "the manifest has lengths"),
    (lambda t: t.update(max_batch=4), "the manifest has max_batch"),
    (lambda t: t["gate"]["facts"]["output_range"].update(logits=1e-9), "have the range"),
]


@pytest.mark.parametrize(("change", "said"), DAMAGED)
def test_what_a_manifest_says_is_held_to_the_package(package: Path, change: Change, said: str) -> None:
    forge(package, change)
    with pytest.raises(PackageDamaged, match=said):
        verify(package)


def test_fewer_golden_texts_than_were_sealed_are_found(package: Path) -> None:
    golden = read_golden(package)
    for n in (1, 15):
        few = {k: getattr(golden, k)[:n] for k in ("examples", "ids", "package", "source")}
        write_golden(replace(golden, **few), package)
        forge(package)
        with pytest.raises(PackageDamaged, match=f"there are {n} golden texts"):
            verify(package)


def test_golden_vectors_without_sums_or_without_calls_over_the_vocabulary_are_found(package: Path) -> None:
    golden = read_golden(package)
    for less in (replace(golden, stored=StoredSums()), replace(golden, sweep=NOTHING)):
        write_golden(less, package)
        forge(package)
        with pytest.raises(PackageDamaged, match="lack sums of weights, or calls"):
            verify(package)


def test_a_range_that_hides_every_difference_is_found(package: Path) -> None:
    golden = read_golden(package)
    write_golden(replace(golden, output_range={"logits": 1e9}), package)
    forge(package)
    with pytest.raises(PackageDamaged, match="have the range"):
        verify(package)


def test_labels_beside_the_model_that_are_others_are_found(mobile: Path) -> None:
    lines = (mobile / "labels.txt").read_text(encoding="utf-8").splitlines()
    (mobile / "labels.txt").write_text("".join(f"{line}\n" for line in lines[::-1]), encoding="utf-8")
    forge(mobile)
    with pytest.raises(PackageDamaged, match=r"labels.txt has the labels"):
        verify(mobile)


def test_all_that_a_mobile_package_ships_is_replayed(mobile: Path) -> None:
    names = (MEDIAPIPE_FILE, *(f"{ASSETS}/{n}" for n in ("tokenizer.txt", "vocab.txt", "parity.tsv", "golden.tsv")))
    assert verify(mobile)["also_replayed"] == list(names)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _gone(path: Path) -> None:
    path.unlink()


def _last_word(path: Path) -> None:
    """Change a part of the table that no golden text needs."""
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([*lines[:-2], lines[-2] + "x", ""]), encoding="utf-8")


def _other_number(path: Path) -> None:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")]
    row = next(r for r in rows if r[0] == "text")
    numbers = row[9].split()
    row[9] = " ".join([str(float(numbers[0]) + 1), *numbers[1:]])
    path.write_text("\n".join("\t".join(r) for r in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (MEDIAPIPE_FILE, _cut),
        (MEDIAPIPE_FILE, _emptied),
        (MEDIAPIPE_FILE, _gone),
        *(
            (f"{ASSETS}/{name}", damage)
            for name in ("tokenizer.txt", "vocab.txt")
            for damage in (_emptied, _gone, _cut)
        ),
        (f"{ASSETS}/vocab.txt", _last_word),
        (f"{ASSETS}/tokenizer.txt", _last_word),
        (f"{ASSETS}/parity.tsv", _cut),
        (f"{ASSETS}/golden.tsv", _cut),
        (f"{ASSETS}/golden.tsv", _gone),
        (f"{ASSETS}/golden.tsv", _other_number),
    ],
)
def test_whatever_is_damaged_beside_the_model_is_found(mobile: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(mobile / name)
    forge(mobile)
    with pytest.raises(PackageDamaged):
        verify(mobile)


def test_another_models_mediapipe_file_is_found(mobile: Path) -> None:
    """It opens and runs, and its weights are others: one product's weights have another sign."""
    from converter.tflite.file import read_flat, write_flat

    path = mobile / MEDIAPIPE_FILE
    tail = path.read_bytes()
    before = path.rename(mobile.parent / "before.tflite")  # what is read lies under what is written
    model = read_flat(before)
    largest = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    largest.data = (largest.data.view("float32") * -1).view("uint8")
    write_flat(model, path, inline=True)
    path.write_bytes(path.read_bytes() + tail[tail.rfind(b"PK\x03\x04") :])
    forge(mobile)
    with pytest.raises(PackageDamaged):
        verify(mobile)


def test_an_output_folder_with_a_rejected_package_is_no_yes(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(package, out / "cpu-int8")
    assert code_of(capfd, str(out))[0] == 0
    shutil.copytree(package, out / "tflite.rejected")
    (out / "tflite.rejected" / "manifest.json").rename(out / "tflite.rejected" / "rejected.json")
    code, said, err = code_of(capfd, str(out))
    assert code == 3
    assert [line.split()[0] for line in said.splitlines()] == ["PASS", "FAIL"]
    assert "failed its gate" in err


def test_every_package_has_its_own_line_and_the_worst_code_wins(
    made: Callable[[str], Path], package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unproven = shutil.copytree(package, tmp_path / "unproven")
    forge(unproven, lambda t: t["gate"].update(status="NOT_RUN"))
    shutil.copytree(package, tmp_path / "damaged")
    (tmp_path / "damaged" / "README.md").write_text("x", encoding="utf-8")
    names = [str(tmp_path / n) for n in ("nowhere", "damaged", "unproven", "package")]
    code, out, err = code_of(capfd, *names)
    assert code == 6
    assert [line.split()[0] for line in out.splitlines()] == ["FAIL", "FAIL", "FAIL", "PASS"]
    assert err.count("error:") == 3
    assert code_of(capfd, *names[2:])[0] == 3


def test_a_bug_that_one_package_meets_hides_no_other(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.package import claims

    checked = claims.check_tolerance

    def faulty(folder: Path, *rest: Any) -> None:
        if folder.name == "odd":
            raise ZeroDivisionError("a bug")
        checked(folder, *rest)

    monkeypatch.setattr(claims, "check_tolerance", faulty)
    shutil.copytree(package, tmp_path / "odd")
    code, out, err = code_of(capfd, str(tmp_path / "odd"), str(package))
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["FAIL", "PASS"]
    assert "internal error (bug): ZeroDivisionError: a bug" in err


def test_json_and_junit_say_the_same_step_by_step(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unproven = shutil.copytree(package, tmp_path / "unproven")
    forge(unproven, lambda t: t["gate"].update(status="NOT_RUN"))
    damaged = shutil.copytree(package, tmp_path / "damaged\x1b[31m")
    (damaged / "README.md").write_text("x", encoding="utf-8")
    junit = tmp_path / "verify.xml"
    code, out, _ = code_of(capfd, "--json", "--junit", str(junit), str(package), str(unproven), str(damaged))
    rows = json.loads(out)
    assert code == 6
    assert [(r["status"], r["exit_code"]) for r in rows] == [("PASS", 0), ("FAIL", 3), ("FAIL", 6)]
    assert set(rows[0]["steps"].values()) == {"PASS"}
    assert rows[1]["steps"]["gate"] == "FAIL"
    assert rows[2]["steps"] == dict.fromkeys(rows[0]["steps"], "NOT_RUN") | {"manifest": "PASS", "files": "FAIL"}
    root = ET.parse(junit).getroot()
    suites = root.findall("testsuite")
    found = [[s.get(k) for k in ("tests", "failures", "errors", "skipped")] for s in suites]
    assert found == [["7", "0", "0", "0"], ["7", "1", "0", "0"], ["7", "0", "1", "5"]]
    assert "README.md has changed" in (suites[2].find(".//error").get("message") or "")  # type: ignore[union-attr]


def test_what_a_manifest_of_every_kind_holds_is_known_to_its_schema(mobile: Path) -> None:
    assert {"beside", "files", "gate"} <= set(manifest_of(mobile))
