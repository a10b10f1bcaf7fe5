"""Faults planted into one good package, one of each important kind: the gate rejects each, and so does `verify`."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from converter.artifact import Bundle, TorchModel
from converter.errors import PackageDamaged
from converter.package.manifest import seal
from converter.package.verify import verify_package
from converter.pipeline import run_recipe
from converter.recipe import bind_recipe
from converter.registry import target_class
from converter.validate.checks import Evaluation, Status
from converter.validate.package_check import evaluate_package
from converter.validate.proof import ProofContext
from tests.torch_runner import proof_context

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _mutants import FOLDER_KINDS
from _mutants_onnx import ONNX_KINDS

SEEN_BY = {
    "labels_swapped": "as called",
    "cuts_early": "as called",
    "cuts_inside": "as called",
    "pads_left": "as called",
    "words: one": "embedding tables",
    "words: few": "embedding tables",
    "positions: last": "embedding tables",
    "product: heads exchanged": "weights",
    "product: column x10": "weights",
    "product: row zeroed": "weights",
    "products exchanged": "agreement",
    "output: long negated": "full lengths",
}
"""A fault of each kind, and a check that sees it."""


@dataclass(frozen=True)
class Good:
    folder: Path
    source: TorchModel
    proof: ProofContext


@pytest.fixture(scope="module")
def good(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Good:
    from converter.model_folder.load import load_source

    work = tmp_path_factory.mktemp("mutants")
    model = tiny("bert", "token-classification")
    recipe = bind_recipe({"model": str(model), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "static"}})
    assert run_recipe(recipe, work / "out").exit_code == 0
    source = load_source(str(model))
    return Good(work / "out" / "cpu-int8", source, proof_context(source, work))


def judged(good: Good, folder: Path) -> Evaluation:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    target = target_class("cpu-int8")()
    bundle = Bundle(folder, {g: entry["file"] for g, entry in manifest["graphs"].items()}, good.source)
    return evaluate_package(target, bundle, good.source, target.limits("static"), good.proof, require_device=False)


def planted(good: Good, kind: str, folder: Path) -> None:
    """Copy the package, plant the fault, and make the hashes anew: they must not be what tells."""
    shutil.copytree(good.folder, folder)
    (FOLDER_KINDS | ONNX_KINDS)[kind](folder, np.random.default_rng(1))
    table = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").unlink()
    seal(
        Bundle(folder, {}, good.source),
        {k: v for k, v in table.items() if k not in {"format", "files", "manifest_sha256"}},
    )


def test_the_good_package_passes_both(good: Good) -> None:
    made = judged(good, good.folder)
    assert {c.name for c in made.checks} >= {"as called", "full lengths", "embedding tables", "weights", "noise"}
    assert made.status is Status.PASS, made.reason()
    assert verify_package(good.folder)["tolerance"] <= 1e-6


@pytest.mark.parametrize("kind", SEEN_BY)
def test_a_fault_is_seen_by_the_gate_and_by_verify(good: Good, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    planted(good, kind, folder)
    failed = {c.name: c.detail for c in judged(good, folder).checks if c.status is Status.FAIL}
    assert SEEN_BY[kind] in failed, failed
    with pytest.raises(PackageDamaged):
        verify_package(folder)
