"""What becomes of a package by its verdict: sealed, sealed as not proven, rejected, or gone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter import verify
from converter.errors import DataError, GateFailed, RecipeError, UsageError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.package.manifest import check_files, read_manifest
from converter.pipeline import Result, run_recipe
from converter.recipe import ChosenPrecision, Recipe, bind_recipe
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.target import DeviceCheck
from converter.validate.checks import Status
from tests.tiny import SENTENCES
from tests.torch_runner import Change, Feed, Outputs, TorchRunner, torch_target, unchanged

Make = Callable[..., Result]


@pytest.fixture
def make(tiny: Callable[..., Path], tmp_path: Path) -> Make:
    """Return a function that runs a whole recipe whose package is the PyTorch model, changed by `change`."""

    def run(
        change: Change = unchanged,
        *,
        wrong_labels: bool = False,
        device: DeviceCheck | None = None,
        require_device: bool = False,
    ) -> Result:
        folder = str(tiny())
        source = load_source(folder)
        found = capture_reference(source, [Example(s) for s in SENTENCES], SILENT).decisions
        rows = [f"{s}\t{(d + wrong_labels) % 3}\n" for s, d in zip(SENTENCES, found, strict=True)]
        data = tmp_path / "dev.tsv"
        data.write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
        target = torch_target(lambda: TorchRunner(source, change), device)
        recipe = Recipe(folder, (target,), (ChosenPrecision("none"),), evaluation=data)
        return run_recipe(recipe, tmp_path / "out", require_device=require_device)

    return run


def shuffled(out: Outputs, feed: Feed) -> Outputs:
    return {"logits": np.roll(out["logits"], 1, axis=-1)}


def test_a_proven_package_is_sealed_and_exits_0(make: Make) -> None:
    result = make()
    assert result.exit_code == 0
    assert result.targets[0].error is None
    manifest = read_manifest(result.out / "torch")
    assert check_files(result.out / "torch", manifest) == len(manifest["files"])
    assert manifest["gate"]["status"] == "PASS"
    assert manifest["gate"]["metric"]["accuracy"] == 1.0


def test_a_failed_gate_exits_3_and_is_kept_as_rejected(make: Make) -> None:
    result = make(shuffled)
    assert result.exit_code == 3
    assert result.targets[0].status is Status.FAIL
    assert (result.targets[0].error or "").startswith("gate: ")
    rejected = result.out / "torch.rejected"
    assert not (result.out / "torch").exists()
    assert not (rejected / "manifest.json").exists()
    assert json.loads((rejected / "rejected.json").read_text(encoding="utf-8"))["gate"]["status"] == "FAIL"
    with pytest.raises(GateFailed, match="rejected"):
        verify(rejected)


def test_nan_is_rejected_with_strict_json(make: Make) -> None:
    result = make(lambda out, feed: {"logits": out["logits"] * np.nan})
    assert result.exit_code == 3

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((result.out / "torch.rejected" / "rejected.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_package_that_cannot_be_proven_is_sealed_and_exits_3(make: Make) -> None:
    result = make(wrong_labels=True)
    assert result.targets[0].status is Status.NOT_RUN
    assert result.exit_code == 3
    assert "chance" in (result.targets[0].error or "")
    assert read_manifest(result.out / "torch")["gate"]["status"] == "NOT_RUN"
    assert "**not proven**" in (result.out / "torch" / "README.md").read_text(encoding="utf-8")


def test_a_device_that_is_not_there_stands_in_manifest_and_readme(make: Make) -> None:
    result = make(device=DeviceCheck(ran=False, detail="there is no GPU here"))
    assert result.exit_code == 0
    checks = read_manifest(result.out / "torch")["gate"]["checks"]
    assert {
        "name": "device",
        "status": "NOT_RUN",
        "value": None,
        "limit": None,
        "detail": "there is no GPU here",
    } in checks
    assert "| device | NOT_RUN | there is no GPU here |" in (result.out / "torch" / "README.md").read_text("utf-8")


def test_a_required_device_that_is_not_there_exits_5_and_leaves_no_package(make: Make) -> None:
    result = make(device=DeviceCheck(ran=False, detail="there is no GPU here"), require_device=True)
    assert result.exit_code == 5
    assert not list(result.out.glob("torch*"))


def test_the_same_run_gives_the_same_bytes_but_for_the_manifest(make: Make) -> None:
    first = make().out
    kept = {p.name: p.read_bytes() for p in (first / "torch").iterdir()}
    first.rename(first.with_name("first"))
    second = make().out
    for path in (second / "torch").iterdir():
        assert path.name == "manifest.json" or path.read_bytes() == kept[path.name], path.name


@pytest.mark.parametrize(
    ("target", "precision"),
    [("tflite", "none:per_channel=yes"), ("cpu-int8", "static:sample=3"), ("ort-gpu", "fp16:x=1")],
)
def test_options_that_a_target_does_not_have_are_refused_before_any_work(
    target: str, precision: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    table = {"model": str(tiny()), "targets": [target], "quantize": {target: precision}, "eval": "/nowhere.tsv"}
    with pytest.raises(RecipeError, match=f"quantize.{target}.*option"):
        run_recipe(bind_recipe(table), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "said"), [(None, "there is no --eval"), ("texts.txt", "texts.txt has no label")])
def test_a_limit_of_the_metric_without_labels_is_refused_before_any_work(
    file: str | None, said: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """It would be NOT_RUN, which a user who asked for it might overlook."""
    table: dict[str, object] = {"model": str(tiny()), "limits": {"max_drop": 0.01}}
    if file is not None:
        (tmp_path / file).write_text("a text\nanother\n", encoding="utf-8")
        table["eval"] = str(tmp_path / file)
    with pytest.raises(UsageError, match=said):
        run_recipe(bind_recipe(table), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_fixed_ranges_without_text_to_measure_them_on_are_refused_before_any_work(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    table = {"model": str(tiny()), "targets": ["tflite"], "quantize": {"tflite": "static"}, "eval": "/nowhere.tsv"}
    with pytest.raises(DataError, match="static quantization needs calibration text") as refused:
        run_recipe(bind_recipe(table), tmp_path / "out")
    assert refused.value.exit_code == 2
    assert "--calibration" in refused.value.hint
    assert list(tmp_path.iterdir()) == []
    # With text, the run goes on to the next thing that is wrong.
    (tmp_path / "texts.txt").write_text("a text\n", encoding="utf-8")
    with pytest.raises(DataError, match="nowhere"):
        run_recipe(bind_recipe(table | {"calibration": str(tmp_path / "texts.txt")}), tmp_path / "out")
