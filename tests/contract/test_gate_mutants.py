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
from converter.data.probes import ODD_TEXTS, builtin_examples, builtin_sentences
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
from _mutants_text import TEMPLATE, TEXT_KINDS

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
SEEN_IN_A_WRITER = {
    "cuts_inside": "as called",
    "stop dropped": "as called",
    "setting: beams": "as called",
    "setting: short": "as called",
    "template without role": "as called",
    "other client: draws": "other clients",
    "cache: keys for values": "agreement",
}
"""The same, of a model that writes text."""


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


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """A causal model with a chat template."""
    from transformers import AutoTokenizer

    from converter.model_folder.load import load_source
    from tests.tiny_text import save_causal

    work = tmp_path_factory.mktemp("writers")
    model = save_causal(work / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    recipe = bind_recipe({"model": str(model), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}})
    assert run_recipe(recipe, work / "out").exit_code == 0
    source = load_source(str(model))
    return Good(work / "out" / "cpu-int8", source, proof_context(source, work))


@pytest.fixture(scope="module")
def writer_in_four_bits(writer: Good, tmp_path_factory: pytest.TempPathFactory) -> Good:
    """The same model, whose weights are rounded so far that its answers tell little."""
    model = writer.folder.parents[1] / "model"
    recipe = bind_recipe(
        {
            "model": str(model),
            "targets": ["cpu-int8"],
            "quantize": {"cpu-int8": "int4"},
            "limits": {"agreement": 0.0, "stability": 0.0, "sequences": 0.0, "perplexity": 99.0},
        }
    )
    out = tmp_path_factory.mktemp("four-bits") / "out"
    assert run_recipe(recipe, out).exit_code == 0
    return Good(out / "cpu-int8", writer.source, writer.proof)


def judged(good: Good, folder: Path) -> Evaluation:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    target = target_class("cpu-int8")()
    bundle = Bundle(folder, {g: entry["file"] for g, entry in manifest["graphs"].items()}, good.source)
    return evaluate_package(
        target, bundle, good.source, target.limits(manifest["precision"]), good.proof, require_device=False
    )


def planted(good: Good, kind: str, folder: Path) -> None:
    """Copy the package and plant the fault."""
    plant = (FOLDER_KINDS | ONNX_KINDS | TEXT_KINDS)[kind]
    sealed_again(good, lambda copied: plant(copied, np.random.default_rng(1)), folder)


def sealed_again(good: Good, change: Callable[[Path], object], folder: Path) -> None:
    """Copy the package, change it, and make the hashes anew: they must not be what tells."""
    shutil.copytree(good.folder, folder)
    change(folder)
    table = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").unlink()
    seal(
        Bundle(folder, {}, good.source),
        {k: v for k, v in table.items() if k not in {"format", "files", "manifest_sha256"}},
    )


def assert_seen(good: Good, kind: str, check: str, folder: Path) -> None:
    planted(good, kind, folder)
    failed = {c.name: c.detail for c in judged(good, folder).checks if c.status is Status.FAIL}
    assert check in failed, failed
    with pytest.raises(PackageDamaged):
        verify_package(folder)


def test_the_good_package_passes_both(good: Good) -> None:
    made = judged(good, good.folder)
    assert {c.name for c in made.checks} >= {"as called", "full lengths", "embedding tables", "weights", "noise"}
    assert made.status is Status.PASS, made.reason()
    assert verify_package(good.folder)["tolerance"] <= 1e-6


@pytest.mark.parametrize("kind", SEEN_BY)
def test_a_fault_is_seen_by_the_gate_and_by_verify(good: Good, kind: str, tmp_path: Path) -> None:
    assert_seen(good, kind, SEEN_BY[kind], tmp_path / "package")


def test_a_good_writer_passes_both(writer: Good) -> None:
    made = judged(writer, writer.folder)
    assert "other clients" in {c.name for c in made.checks}
    assert made.status is Status.PASS, made.reason()
    verify_package(writer.folder)


@pytest.mark.parametrize("kind", SEEN_IN_A_WRITER)
def test_a_fault_of_a_writer_is_seen_by_the_gate_and_by_verify(writer: Good, kind: str, tmp_path: Path) -> None:
    assert_seen(writer, kind, SEEN_IN_A_WRITER[kind], tmp_path / "package")


def test_words_that_no_text_has_cannot_have_each_others_ids(good: Good, tmp_path: Path) -> None:
    texts = [*builtin_sentences(), *ODD_TEXTS.values(), *(e.text for e in builtin_examples(good.source))]
    seen = {i for ids in good.source.tokenizer(texts)["input_ids"] for i in ids}
    words: list[str] = []

    def exchange(folder: Path) -> None:
        path = folder / "tokenizer.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = table["model"]["vocab"]
        a, b = words[:] = [w for w, i in vocabulary.items() if i not in seen and w.isalpha()][:2]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        path.write_text(json.dumps(table), encoding="utf-8")

    sealed_again(good, exchange, tmp_path / "package")
    failed = {c.name: c.detail for c in judged(good, tmp_path / "package").checks if c.status is Status.FAIL}
    assert any(repr(word) in failed["tokenizer"] for word in words)
    assert "the source's has" in failed["tokenizer"]
    with pytest.raises(PackageDamaged, match="vocabulary is another one than when the package was sealed"):
        verify_package(tmp_path / "package")


def test_a_good_writer_in_four_bits_answers_like_the_model_with_its_weights(writer_in_four_bits: Good) -> None:
    checks = {c.name: c.status for c in judged(writer_in_four_bits, writer_in_four_bits.folder).checks}
    assert checks["own weights"] is Status.PASS


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("cache: scaled", "own weights"),
        ("norm epsilon", "own weights"),
        ("block scale in part", "weights"),
        ("table doubled", "embedding tables"),
    ],
)
def test_a_fault_hides_behind_no_rounding_to_four_bits(
    writer_in_four_bits: Good, kind: str, check: str, tmp_path: Path
) -> None:
    planted(writer_in_four_bits, kind, tmp_path / "package")
    failed = {c.name for c in judged(writer_in_four_bits, tmp_path / "package").checks if c.status is Status.FAIL}
    assert check in failed
