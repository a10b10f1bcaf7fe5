"""Packages that write text: faults that nobody sees elsewhere, planted, and what is scored against references."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.api import convert
from converter.package.manifest import model_files, read_manifest
from converter.stage import SILENT
from converter.task import Judged
from converter.validate.checks import Check, Status
from tests.contract.written_packages import (
    Proof,
    cache_cut,
    cross_keys_updated_twice,
    positions_off_by_one,
    proof_of,
    short_answers,
    tied_table_doubled,
    with_settings,
)
from tests.tiny_text import save_causal, save_marian

Made = tuple[Path, Path]
"""A tiny model and its package in float32; do not write into either."""


def make(save: Callable[[Path], Any], work: Path) -> Made:
    folder = Path(save(work / "model"))
    recipe = {"model": str(folder), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}}
    (target,) = convert(recipe, work / "out").targets
    assert target.status is Status.PASS, target.error
    assert target.evaluation is not None
    checks = {c.name: c for c in target.evaluation.checks}
    assert {checks[n].status for n in ("cache", "stored once")} == {Status.PASS}
    return folder, work / "out" / "cpu-int8"


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(save_causal, tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(save_marian, tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def proof(causal: Made) -> Proof:
    return proof_of(causal[0])


@pytest.fixture(scope="module")
def translator_proof(translator: Made, tmp_path_factory: pytest.TempPathFactory) -> Proof:
    short = tmp_path_factory.mktemp("short") / "model"
    return proof_of(short_answers(Path(shutil.copytree(translator[0], short))), 6)


@pytest.fixture
def package(causal: Made, tmp_path: Path) -> Path:
    """A copy of the GPT-2's package that a test may damage."""
    return Path(shutil.copytree(causal[1], tmp_path / "package"))


@pytest.fixture
def translator_package(translator: Made, tmp_path: Path) -> Path:
    """A copy of the translator's package that a test may damage."""
    return short_answers(Path(shutil.copytree(translator[1], tmp_path / "package")))


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (cache_cut, {"max_error", "agreement", "generation", "cache"}),
        (tied_table_doubled, {"stored once"}),
    ],
)
def test_a_fault_that_is_planted_into_a_package_fails_its_gate(
    plant: Callable[[Path], None], seen: set[str], package: Path, proof: Proof
) -> None:
    plant(package)
    assert seen <= proof.failed(package)


def test_cross_attention_that_is_updated_twice_fails_the_gate(
    translator_package: Path, translator_proof: Proof
) -> None:
    cross_keys_updated_twice(translator_package)
    checks = translator_proof.of(translator_package)
    failed = {name for name, check in checks.items() if check.status is Status.FAIL}
    assert {"max_error", "generation", "cache"} <= failed
    assert "fed token by token" in checks["cache"].detail


def test_a_forced_language_token_that_is_dropped_fails_the_gate(
    translator: Made, translator_package: Path, tmp_path: Path
) -> None:
    """The graphs are the same: what the first token must be stands in generation_config.json alone."""
    folder = Path(shutil.copytree(translator[0], tmp_path / "model"))
    for one in (folder, translator_package):
        with_settings(one, {"forced_bos_token_id": 7})
    proof = proof_of(folder, 6)
    assert {j.encoding.answer[0] for j in proof.reference.judged if j.encoding.answer is not None} == {7}
    assert proof.of(translator_package)["generation"].status is Status.PASS
    path = translator_package / "generation_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if "forced_bos" not in k}))
    assert proof.of(translator_package)["generation"].status is Status.FAIL


# What is scored by references.


def labelled(proof: Proof, wanted: Callable[[str, str], str]) -> list[Any]:
    """Return texts with what the source writes about each as its reference, changed by `wanted(text, written)`."""
    from converter.examples import Example, References
    from converter.reference import torch_run

    task: Any = proof.source.task
    run, specs, made = torch_run(proof.source), proof.source.specs, []
    for one in proof.reference.judged[:6]:
        given = Example(one.example.text, label=References((one.example.text,) * 2))
        written = task.read_written(task.scored_outputs(specs, run, given, one.encoding)["written"].tolist())
        made.append(replace(given, label=References((wanted(one.example.text, written),))))
    return made


def scored(proof: Proof, examples: list[Any]) -> Proof:
    from converter.reference import capture_reference

    probes = [j.example for j in proof.reference.judged[:4]]
    return Proof(proof.source, capture_reference(proof.source, probes, SILENT, examples))


def test_a_translator_is_scored_by_what_it_writes_and_so_is_its_package(
    translator_package: Path, translator_proof: Proof
) -> None:
    judged = scored(translator_proof, labelled(translator_proof, lambda text, written: written))
    assert list(judged.reference.metric)[:2] == ["bleu", "chrf"]
    assert judged.reference.metric["exact_match"] == 1
    assert judged.reference.metric["bleu"] > 0.95
    assert any("sacrebleu" in note for note in judged.reference.notes)
    assert of_metric(judged, translator_package).status is Status.PASS


def of_metric(proof: Proof, package: Path) -> Check:
    from converter.onnx.runner import OnnxRunner
    from converter.precision import Limits
    from converter.validate.compare import compare_answers
    from converter.validate.interface import shipped_task

    files = {name: package / f for name, f in model_files(read_manifest(package)).items()}
    shipped, limits = shipped_task(proof.source, package), Limits(max_drop=0.003)
    made = compare_answers(proof.source, proof.reference, OnnxRunner(files).run, limits, SILENT, "", shipped)
    return next(c for c in made.evaluation.checks if c.name == "metric")


def test_a_package_that_stops_too_soon_scores_lower(translator_package: Path, translator_proof: Proof) -> None:
    judged = scored(translator_proof, labelled(translator_proof, lambda text, written: written))
    with_settings(translator_package, {"max_new_tokens": 3})
    check = of_metric(judged, translator_package)
    assert check.status is Status.FAIL
    assert "bleu falls by" in check.detail


def test_references_that_the_source_itself_does_not_reach_prove_nothing(
    translator_package: Path, translator_proof: Proof
) -> None:
    for wanted, said in (
        (lambda text, written: " ".join(reversed(text)), "no better than chance"),
        (lambda text, written: text, "to copy the texts"),
    ):
        judged = scored(translator_proof, labelled(translator_proof, wanted))
        check = of_metric(judged, translator_package)
        assert check.status is Status.NOT_RUN
        assert said in check.detail


def test_plain_text_is_scored_by_its_perplexity_as_transformers_has_it(package: Path, proof: Proof) -> None:
    import torch

    from converter.examples import Example, References

    texts = [j.example.text for j in proof.reference.judged[:3]]
    judged = scored(proof, [Example(text, label=References(())) for text in texts])
    total = count = 0.0
    for text in texts:
        ids = proof.source.tokenizer(text, return_tensors="pt")["input_ids"]
        module: Any = proof.source.module
        with torch.inference_mode():
            total += float(module(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert judged.reference.metric == {"perplexity": pytest.approx(np.exp(total / count), rel=1e-4)}
    # Drawn at random, it is surprised by every text: nothing can be proven by that.
    assert judged.reference.metric["perplexity"] > proof.source.task.config.vocab_size
    checks = judged.of(package)
    assert checks["perplexity"].status is Status.NOT_RUN
    assert "no better than chance" in checks["perplexity"].detail


def test_the_perplexity_of_the_evaluation_file_is_judged(package: Path, proof: Proof) -> None:
    from converter.examples import Example, References

    # What the model itself writes is no surprise to it.
    rows = labelled(proof, lambda text, written: written)
    texts = [Example(f"{e.text}{e.label.texts[0]}", label=References(())) for e in rows if e.label.texts[0].strip()]
    judged = scored(proof, texts)
    judged.source.task.config.vocab_size, size = 10**9, judged.source.task.config.vocab_size
    try:
        reference = replace(judged.reference, chance=1e9)
        sound = Proof(judged.source, reference).of(package)["perplexity"]
        positions_off_by_one(package)
        faulty = Proof(judged.source, reference).of(package)["perplexity"]
    finally:
        judged.source.task.config.vocab_size = size
    assert (sound.status, faulty.status) == (Status.PASS, Status.FAIL)
    assert "of the evaluation file" in sound.detail


def cut(proof: Proof, one: Judged, steps: int) -> Judged:
    """Return an answer as if the source had written only so many tokens."""
    task: Any = proof.source.task
    assert one.encoding.answer is not None
    outputs = {name: value[:steps] for name, value in one.outputs.items()}
    return replace(one, encoding=task.with_answer(one.encoding, one.encoding.answer[:steps]), outputs=outputs)


@pytest.mark.parametrize(
    ("decisions", "said"), [((5, 5, 5), "one and the same token"), ((5,), "ends at once"), ((5, 6), "the same answer")]
)
def test_a_package_of_a_source_that_says_nothing_is_not_proven(
    decisions: tuple[int, ...], said: str, package: Path, proof: Proof
) -> None:
    alike = tuple((i, *decisions[1:]) if len(decisions) == 1 else decisions for i in range(3))
    if said.startswith("one"):
        alike = (decisions, decisions[1:], decisions)
    few = tuple(cut(proof, j, len(tokens)) for j, tokens in zip(proof.reference.judged[:3], alike, strict=True))
    checks = Proof(proof.source, replace(proof.reference, judged=few, decisions=alike)).of(package)
    for name in ("agreement", "generation", "stops", "perplexity", "cache"):
        assert checks[name].status is Status.NOT_RUN, name
    assert said in checks["generation"].detail
