"""`explain` names boundary and layer of planted faults: one package, made once; benchmarks/explain.py has thirty."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import convert
from converter.artifact import TorchModel
from converter.commands.explain import lines
from converter.errors import PackageDamaged, UsageError
from converter.explain.layers import LayerError, first_change, first_departure, kept_columns, layer_errors
from converter.explain.package import candidates, explain_package, repaired_recipes
from converter.explain.walk import Explanation
from converter.model_folder.load import load_source
from converter.recipe import ChosenPrecision, bind_recipe
from converter.registry import quantizers, target_class, target_names
from tests.planted import LAYERS, ONNX, Fault, model_file, planted
from tests.tiny import SENTENCES, write_text

FAULTS = (
    Fault(ONNX, "tokenizer", "tokenizer_config.json", "cut at 4"),
    Fault(ONNX, "labels", "config.json", "swapped"),
    Fault(ONNX, "rewrite", LAYERS[1], "negated"),
    Fault(ONNX, "quantize", LAYERS[4], "negated"),
    Fault(ONNX, "packing", LAYERS[0], "rolled"),
    Fault(ONNX, "packing", LAYERS[3], "half zero"),
)


@pytest.fixture(scope="module")
def package(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("explained")
    (work / "texts.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    recipe = {
        "model": str(tiny()),
        "targets": ["cpu-int8"],
        "calibration": str(work / "texts.txt"),
        "limits": {"agreement": 0.9, "stability": 0.0},
    }
    assert convert(bind_recipe(recipe), work / "out").exit_code == 0
    return work / "out" / "cpu-int8"


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


def test_a_good_package_is_broken_nowhere(package: Path) -> None:
    found = explain_package(package)
    assert (found.boundary, found.layer) == ("", "")
    assert [b.name for b in found.boundaries] == ["tokenizer", "labels", "export", "quantize", "packing"]
    assert "answers like its source" in lines(package, found)[-1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_boundary_and_layer_of_a_fault_are_named(
    fault: Fault, package: Path, model: TorchModel, tmp_path: Path
) -> None:
    with planted(fault, package, model, tmp_path) as folder:
        found = explain_package(folder)
    assert (found.boundary, found.layer) == (fault.boundary, fault.layer), found.detail
    assert f"The first boundary that broke is {fault.boundary}, in {fault.layer}." in lines(folder, found)
    fixed = repaired_recipes(package, None, None, found)
    if fault.boundary in {"tokenizer", "labels", "packing"}:
        assert [str(one.precisions[0]) for one in fixed] == ["static"]
    if fault.boundary == "rewrite":
        assert not fixed


@pytest.fixture(scope="module")
def leaving(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package whose layers behind two exits are in branches, and which costs more than `strict` allows."""
    work = tmp_path_factory.mktemp("leaving")
    write_text(work / "texts.tsv", 300, labels=False)
    recipe = {
        "model": str(tiny()),
        "targets": ["cpu-int8"],
        "quantize": {"cpu-int8": "none"},
        "calibration": str(work / "texts.tsv"),
        "compress": [{"stage": "adapt.exit", "layers": [0, 1], "agreement": 0.6, "epochs": 3}],
        "limits": {"agreement": 0.3, "stability": 0.0},
    }
    assert convert(bind_recipe(recipe), work / "out").exit_code == 0
    nodes = onnx.load(model_file(work / "out" / "cpu-int8"), load_external_data=False).graph.node
    assert "If" in {n.op_type for n in nodes}
    return work / "out" / "cpu-int8"


def strict(folder: Path, work: Path) -> Path:
    """Return the recipe of a package with a limit that its exits do not keep to."""
    text = (folder.parent / "recipe.toml").read_text(encoding="utf-8")
    assert "agreement = 0.3" in text
    (work / "strict.toml").write_text(text.replace("agreement = 0.3", "agreement = 0.97"), encoding="utf-8")
    return work / "strict.toml"


def test_a_wrong_layer_of_a_branch_is_named_whatever_the_exits_cost(
    leaving: Path, model: TorchModel, tmp_path: Path
) -> None:
    fault = Fault(ONNX, "packing", LAYERS[3], "negated")
    with planted(fault, leaving, model, tmp_path) as folder:
        found = explain_package(folder, recipe=strict(leaving, tmp_path))
    assert (found.boundary, found.layer) == ("packing", LAYERS[3]), found.detail
    assert next(b for b in found.boundaries if b.name == "compress").broken


def test_exits_that_cost_more_than_the_limits_are_named_where_the_file_is_what_they_make(
    leaving: Path, tmp_path: Path
) -> None:
    found = explain_package(leaving, recipe=strict(leaving, tmp_path))
    assert found.boundary == "compress", found.detail
    assert not any(b.broken for b in found.boundaries if b.name != "compress")
    assert explain_package(leaving).boundary == ""


def test_what_is_computed_otherwise_is_not_called_wrong() -> None:
    errors = [LayerError(f"layer {i}", e, "") for i, e in enumerate((0.01, 1.4, *[0.02] * 6, 0.9, 0.8, 0.7, 0.5))]
    found = first_departure(errors)
    assert found is not None
    assert found.layer == "layer 8"


def test_a_layer_is_found_whatever_surrounds_its_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 8)).astype(np.float32)
    padded = np.concatenate([rows, rng.normal(size=(3, 8)).astype(np.float32)])
    values = {"other": rng.normal(size=(5, 8)).astype(np.float32), "heads": padded.reshape(1, 8, 2, 4)}
    (found,) = layer_errors({"dense": rows}, values)
    assert (found.value, found.error) == ("heads", 0.0)
    assert first_change(values, {**values, "heads": values["heads"] + 1}) == "heads"
    assert first_change(values, dict(values)) is None


def test_the_columns_that_a_pruned_layer_kept_are_found_and_a_wrong_one_stays_far_off() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.normal(size=(4, 7)).astype(np.float32)
        kept = sorted(rng.choice(7, 4, replace=False))
        assert kept_columns(rows, rows[:, kept]).tolist() == kept
        other = rng.normal(size=(4, 4)).astype(np.float32)
        nearest = min(combinations(range(7), 4), key=lambda c: float(((rows[:, c] - other) ** 2).sum()))
        assert tuple(kept_columns(rows, other)) == nearest
    good, negated = (layer_errors({"value": rows}, {"value": s * rows[:, kept]})[0] for s in (1, -1))
    assert good.error == 0.0
    assert negated.error > 0.5


@pytest.mark.parametrize("target", target_names())
def test_every_gentler_setting_can_be_chosen(target: str) -> None:
    for name in quantizers(target):
        tried = candidates(target_class(target)(), ChosenPrecision(name))
        assert tried
        for text in tried:
            bind_recipe({"model": "m", "targets": [target], "quantize": {target: text}})


def test_a_folder_without_manifest_or_source_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageDamaged):
        explain_package(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "manifest.json").write_bytes((package / "manifest.json").read_bytes())
    with pytest.raises(UsageError) as refused:
        explain_package(alone)
    assert "--source MODEL" in refused.value.hint


def test_a_repair_changes_the_precision_alone(package: Path) -> None:
    found = Explanation("quantize", repair="static:max_noise=0.02", next_repairs=("dynamic", "none"))
    fixed = repaired_recipes(package, None, None, found)
    assert [str(one.precisions[0]) for one in fixed] == ["static:max_noise=0.02", "dynamic", "none"]
    assert {t.name for one in fixed for t in one.targets} == {"cpu-int8"}


def test_a_precision_of_other_models_repairs_nothing() -> None:
    known = candidates(target_class("cpu-int8")(), ChosenPrecision("dynamic"))
    assert "none" in known
    assert "int8" not in known
    assert "int8" in candidates(target_class("cpu-int8")(), ChosenPrecision("int4"), "decoder")
