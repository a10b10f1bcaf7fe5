"""What stages made comes back from the cache the same in every respect, and only for what it was made from."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.artifact import Artifact, TorchModel
from converter.distill.soft import SoftLabels
from converter.examples import Example
from converter.factorize.embeddings import EmbeddingFactors
from converter.factorize.linears import LinearFactors
from converter.jsonfile import json_values
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.prune.layers import LayerDropping
from converter.prune.structured import StructuredPruning
from converter.prune.threshold import ThresholdPruning
from converter.share.codebook import CodebookSharing
from converter.share.layers import LayerSharing
from converter.stage import Context, Record, Stage, run_stages
from converter.stage_cache.cache import StageCache, open_cache
from converter.stage_cache.identity import _machine, artifact_key, base_key
from converter.trim.vocabulary import VocabularyTrimming
from tests.distilling import QUICK, TEXTS
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_marian

PRUNE = StructuredPruning(0.5, 0.5, steps=1)
CHAINS: dict[str, Sequence[Stage[Any, Any]]] = {
    "pruned and distilled": (PRUNE, SoftLabels(steps=2, **QUICK)),
    "trimmed, fewer layers, sparse": (VocabularyTrimming(), LayerDropping(2), ThresholdPruning(0.5)),
    "codebook": (CodebookSharing(),),
    "shared layers": (LayerSharing(),),
    "factors": (EmbeddingFactors(), LinearFactors()),
}


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> StageCache:
    return open_cache(str(tmp_path / "cache"), note=notes.append)


def context(work: Path, source: TorchModel, cache: StageCache | None, **changed: Any) -> Context:
    work.mkdir(exist_ok=True)
    return replace(Context(work, calibration=TEXTS, teacher=source, cache=cache), **changed)


def run(stages: Sequence[Stage[Any, Any]], given: Artifact, ctx: Context) -> tuple[Artifact, list[Record]]:
    made, records = run_stages(stages, given, ctx)
    return made, list(records)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_model_from_the_cache_is_the_one_that_was_made(
    chain: str, tiny: Callable[..., Path], cache: StageCache, tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    wanted, without = run(CHAINS[chain], source, context(tmp_path / "a", source, None))
    run(CHAINS[chain], source, context(tmp_path / "b", source, cache))
    again = load_source(str(tiny()))
    state = torch.random.get_rng_state()
    found, records = run(CHAINS[chain], again, context(tmp_path / "c", again, cache))
    assert bool((torch.random.get_rng_state() == state).all())
    assert [r.cached for r in records] == [True] * len(records)
    assert artifact_key(found) == artifact_key(wanted)
    kept = [{k: v for k, v in r.facts.items() if "seconds" not in k} for r in records]
    assert kept == [{k: v for k, v in r.facts.items() if "seconds" not in k} for r in without]
    assert [r.digest_made for r in records] == [r.digest_made for r in without]


@pytest.mark.parametrize(
    "change",
    ["options", "text", "seed", "model", "teacher"],
)
def test_whatever_a_stage_depends_on_makes_it_run_again(
    change: str, tiny: Callable[..., Path], cache: StageCache, tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    stage = SoftLabels(steps=1, **QUICK)
    run([stage], source, context(tmp_path / "a", source, cache))
    given = load_source(str(tiny("bert", seed=1))) if change == "model" else source
    changed: dict[str, Any] = {
        "text": {"calibration": TEXTS[:-1]},
        "seed": {"seed": 1},
        "teacher": {"teacher": load_source(str(tiny("bert", seed=1)))},
    }.get(change, {})
    stage = replace(stage, temperature=3.0) if change == "options" else stage
    _, (record,) = run([stage], given, context(tmp_path / "b", source, cache, **changed))
    assert not record.cached


def test_what_a_stage_never_read_does_not_count(tiny: Callable[..., Path], cache: StageCache, tmp_path: Path) -> None:
    source = load_source(str(tiny()))
    run([LayerDropping(2)], source, context(tmp_path / "a", source, cache))
    others = {"calibration": (Example("another text"),), "held_out": TEXTS, "seed": 9}
    _, (record,) = run([LayerDropping(2)], source, context(tmp_path / "b", source, cache, **others))
    assert record.cached


def test_a_changed_file_behind_an_option_makes_it_run_again(
    tiny: Callable[..., Path], cache: StageCache, tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    corpus = tmp_path / "corpus.txt"
    stage = VocabularyTrimming(corpus=(str(corpus),))
    cached = []
    for text in (SENTENCES[0], SENTENCES[0], SENTENCES[1]):
        corpus.write_text(text + "\n")
        cached += [r.cached for r in run([stage], source, context(tmp_path / "w", source, cache))[1]]
    assert cached == [False, True, False]


@pytest.mark.parametrize("named", ["shape_map.json", "."])
def test_a_changed_plan_is_another_stage_whether_its_file_or_its_folder_is_named(
    named: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    source, stage = load_source(str(tiny(layers=1))), StructuredPruning(plan=str(tmp_path / named))
    keys = []
    for text in ("{}", "{}", '{"layers": []}'):
        (tmp_path / "shape_map.json").write_text(text, encoding="utf-8")
        keys.append(base_key(stage, source))
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE", "WORLD_SIZE"])
def test_what_chooses_kernels_makes_it_run_again(
    name: str, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(tiny(layers=1)))
    before = base_key(LayerDropping(1), source)
    monkeypatch.setenv(name, "2")
    assert base_key(LayerDropping(1), source) != before


@pytest.mark.parametrize("changed", ["model name", "flags"])
def test_another_processor_makes_it_run_again(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same instruction set it is not as fast: a model pruned to a goal of time would be another."""
    facts, made = {"processor": "0", "flags": "avx2", "model name": "one", "cpu MHz": "2100"}, []
    for change in ({}, {"cpu MHz": "900"}, {changed: "other"}):
        monkeypatch.setattr("converter.stage_cache.identity.cpu_facts", lambda told=facts | change: tuple(told.items()))
        made.append(_machine.__wrapped__())
    assert made[0] == made[1] != made[2]


def test_other_code_makes_it_run_again(
    tiny: Callable[..., Path], cache: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(tiny()))
    run([LayerDropping(2)], source, context(tmp_path / "a", source, cache))
    monkeypatch.setattr("converter.stage_cache.identity.code_version", lambda: "another")
    _, (record,) = run([LayerDropping(2)], source, context(tmp_path / "b", source, cache))
    assert not record.cached


def test_a_damaged_entry_is_made_again_and_the_result_is_the_same(
    tiny: Callable[..., Path], cache: StageCache, notes: list[str], tmp_path: Path
) -> None:
    source = load_source(str(tiny()))
    wanted, _ = run([PRUNE], source, context(tmp_path / "a", source, cache))
    weights = next((tmp_path / "cache").rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    found, (record,) = run([PRUNE], source, context(tmp_path / "b", source, cache))
    assert (record.cached, found.digest) == (False, wanted.digest)
    assert any("damaged" in note for note in notes)
    assert not list((tmp_path / "b").glob("cached-*")), "what was read of it is as large as what is made anew"
    _, (record,) = run([PRUNE], source, context(tmp_path / "c", source, cache))
    assert record.cached


@pytest.mark.parametrize("kind", ["onnx", "written onnx", "tflite"])
def test_files_come_back_with_their_bytes(
    kind: str, tiny: Callable[..., Path], cache: StageCache, tmp_path: Path
) -> None:
    stage: Stage[Any, Any] = ExportOnnx()
    folder = save_causal(tmp_path / "decoder") if kind == "written onnx" else tiny()
    if kind == "tflite":
        pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")
        from converter.tflite.lower.lower import LowerTflite

        stage = LowerTflite((16,))
    source = load_source(str(folder))
    made, _ = run([stage], source, context(tmp_path / "a", source, cache))
    found, (record,) = run([stage], source, context(tmp_path / "b", source, cache))
    assert record.cached
    assert artifact_key(found) == artifact_key(made)
    assert [p.read_bytes() for p in found.weight_files] == [p.read_bytes() for p in made.weight_files]
    assert tmp_path / "b" in found.weight_files[0].parents


def test_measured_times_come_back_with_what_was_made_by_them(
    tiny: Callable[..., Path], cache: StageCache, tmp_path: Path
) -> None:
    """A second run would measure other times: with those of the cache its manifest says what the model was made by."""
    source = load_source(str(tiny()))
    stage = StructuredPruning(speedup=1.2, steps=1)
    first = context(tmp_path / "a", source, cache, measured={})
    run([stage], source, first)
    second = context(tmp_path / "b", source, cache, measured={})
    _, (record,) = run([stage], source, second)
    assert record.cached
    assert first.measured
    assert json_values(second.measured) == json_values(first.measured)


def test_what_models_are_known_by_is_the_same_in_every_process(
    tiny: Callable[..., Path], tiny_sentence_transformer: Path, tmp_path: Path
) -> None:
    """An address, or the order of a set in it, would make every run a new one."""
    folders = [
        tiny(task="question-answering"),
        tiny(task="token-classification"),
        tiny_sentence_transformer,
        save_causal(tmp_path / "decoder"),
        save_marian(tmp_path / "translator"),
    ]
    code = (
        "import sys; from converter.model_folder.load import load_source; "
        "from converter.stage_cache.identity import artifact_key; "
        "print(*(artifact_key(load_source(f)) for f in sys.argv[1:]))"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, *map(str, folders)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert len({*shown[0]}) == len(folders)
