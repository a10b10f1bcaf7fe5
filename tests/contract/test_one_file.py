"""One file adds a task, a quantizer or a target, and nothing else has to know of it."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from converter import convert, registry, verify
from converter.package.manifest import read_manifest
from converter.pipeline import Result
from tests.tiny import _configs, _draw_weights, make_tokenizer

TASK = '''
"""Next sentence: whether one text follows another."""

import numpy as np

from converter.scoring import metrics
from converter.data.encode import encode_text
from converter.graphs import BATCH, TensorSpec
from converter.task import Task


class NextSentencePrediction(Task):
    name = "next-sentence-prediction"
    architecture = "ForNextSentencePrediction"
    auto_class = "AutoModelForNextSentencePrediction"
    metric_name = "accuracy"

    @property
    def outputs(self):
        return (TensorSpec("logits", "float32", (BATCH, 2)),)

    def builtin_text(self, text):
        return (*text.pairs(), *text.pair_edges())

    def encode(self, tokenizer, example, max_length):
        return encode_text(tokenizer, example, max_length)

    def decisions(self, judged):
        return [int(np.argmax(j.outputs["logits"])) for j in judged]

    def metric(self, judged):
        gold = [j for j in judged if j.example.label is not None]
        return {"accuracy": metrics.accuracy([j.example.label for j in gold], self.decisions(gold))} if gold else {}

    def chance(self, examples):
        return 0.5

    def soft_loss(self, student, teacher, attention_mask, temperature):
        from converter.training.losses import softened_kl

        return softened_kl(student["logits"], teacher["logits"], temperature)

    def hard_loss(self, outputs, batch):
        return None
'''
QUANTIZER = '''
"""Weights as they are, under a name of their own."""

from dataclasses import dataclass, replace

from converter.onnx.model import OnnxModel
from converter.precision import Precision, Quantizer
from converter.stage import Outcome
from converter.precision import Limits


@dataclass(frozen=True)
class Unchanged(Quantizer[OnnxModel]):
    summary = "nothing"
    target = "cpu-int8"
    precision = Precision("unchanged", Limits(agreement=0.9, stability=0.9), bytes_a_weight=4, tolerance=1e-3)

    def run(self, given, ctx):
        return Outcome(replace(given, precision="unchanged"))
'''
TARGET = '''
"""ONNX as it is exported."""

from dataclasses import dataclass

from converter.onnx.export import ExportOnnx
from converter.onnx.package import emit_onnx, find_models
from converter.onnx.runner import OnnxRunner
from converter.precision import unquantized
from converter.target import Target
from converter.precision import Limits


@dataclass(frozen=True)
class PlainOnnx(Target):
    name = "plain-onnx"
    summary = "ONNX as it is exported"
    own = (unquantized(Limits(max_error=1e-4, agreement=0.99, stability=0.99)),)
    precisions = ("none",)

    def check_runtime(self):
        pass

    def stages(self, precision, options, model):
        return (ExportOnnx(),)

    def emit(self, given, source, folder, ctx):
        return emit_onnx(given, source, folder, self.menu())

    def model_files(self, folder, specs):
        return find_models(folder, specs)

    def open(self, folder, specs, threads=1):
        return OnnxRunner(find_models(folder, specs), threads)
'''


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put one file each into folders that `converter.tasks`, `converter.quantize` and `targets` also look in."""
    root = tmp_path_factory.mktemp("added")
    files = {
        "converter.tasks": ("next_sentence_prediction", TASK),
        "converter.quantize": ("unchanged", QUANTIZER),
        "targets": ("plain_onnx", TARGET),
    }
    with pytest.MonkeyPatch.context() as patch:
        for package, (name, text) in files.items():
            folder = root / package
            folder.mkdir()
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            module = importlib.import_module(package)
            patch.setattr(module, "__path__", [*module.__path__, str(folder)])
        _forget()
        yield
    _forget()


def _forget() -> None:
    registry.names.cache_clear()
    registry.quantizers.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def made(added: None, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Take a tiny model of the added task through the added target and quantizer, and through TFLite."""
    import transformers

    folder = tmp_path_factory.mktemp("next-sentence")
    tokenizer = make_tokenizer("bert")
    config = _configs()["bert"](len(tokenizer), tokenizer.pad_token_id, 1)
    model = transformers.BertForNextSentencePrediction(config).eval()
    _draw_weights(model, 0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe: dict[str, Any] = {
        "model": str(folder),
        "targets": ["cpu-int8", "plain-onnx", "tflite"],
        "quantize": {"cpu-int8": "unchanged", "tflite": "none"},
        "target": {"tflite": {"seq_len": [16, 32]}},
        "probes": 12,
    }
    return convert(recipe, tmp_path_factory.mktemp("out") / "out")


def test_a_task_a_quantizer_and_a_target_are_a_file_each(made: Result) -> None:
    found = {t.target: (t.precision, str(t.status), t.error) for t in made.targets}
    assert found == {
        "cpu-int8": ("unchanged", "PASS", None),
        "plain-onnx": ("none", "PASS", None),
        "tflite": ("none", "PASS", None),
    }
    assert made.task == "next-sentence-prediction"


def test_their_packages_verify_and_say_how_they_are_opened(made: Result) -> None:
    for target in ("cpu-int8", "plain-onnx"):
        assert verify(made.out / target)["golden_texts"] > 0
    assert "ORTModelForNextSentencePrediction" in (made.out / "cpu-int8" / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest(made.out / "cpu-int8")
    assert manifest["replay_tolerance"] == 1e-3
    assert manifest["limits"]["agreement"] == 0.9


def test_what_apps_and_mediapipe_have_no_form_for_is_left_out_and_said(made: Result) -> None:
    assert verify(made.out / "tflite")["golden_texts"] > 0
    assert not (made.out / "tflite" / "samples").exists()
    facts = json.loads((made.out / "tflite" / "manifest.json").read_text(encoding="utf-8"))["gate"]["facts"]
    assert facts["device_tokenizer"]["why_not"] == "there are no samples for next-sentence-prediction"
    assert facts["mediapipe"]["left_out"] == "MediaPipe has no task for next-sentence-prediction"


def test_they_stand_in_the_menus_and_are_gone_with_their_files(added: None) -> None:
    assert "next-sentence-prediction" in registry.task_names()
    assert "quantize.unchanged" in registry.stage_names()
    assert list(registry.target_class("cpu-int8").menu()) == ["static", "dynamic", "int8", "int4", "unchanged", "none"]
    assert registry.target_class("plain-onnx").candidates() == ("none",)
