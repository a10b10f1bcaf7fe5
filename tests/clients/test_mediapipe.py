"""MediaPipe Tasks opens the variant unmodified, and answers as the package does."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.lowering.lower import LowerTflite
from converter.lowering.mediapipe import MEDIAPIPE_FILE, write_mediapipe
from converter.source import load_source
from converter.stage import Context, run_stage
from tests.tiny import SENTENCES

pytestmark = pytest.mark.client
CHILD = """
import json, sys
from mediapipe.tasks.python import BaseOptions, text
options = text.TextClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
classifier = text.TextClassifier.create_from_options(options)
made = [classifier.classify(t).classifications[0].categories for t in json.load(sys.stdin)]
print(json.dumps([{c.category_name: c.score for c in row} for row in made]))
"""


def test_mediapipe_answers_as_the_model(tiny: Callable[..., Path], tmp_path: Path) -> None:
    python = Path(os.environ.get("PLM_EXPORT_MEDIAPIPE_PYTHON", "/nowhere"))
    if not python.is_file():
        pytest.skip("PLM_EXPORT_MEDIAPIPE_PYTHON names no Python with mediapipe 1.2.2")
    import torch

    source = load_source(str(tiny("bert", layers=1)))
    made = run_stage(LowerTflite((10, 20)), source, Context(work=tmp_path))[0]
    write_mediapipe(made.path, source, tmp_path / MEDIAPIPE_FILE)
    texts = [t for t in SENTENCES if len(source.tokenizer(t)["input_ids"]) <= 20][:6]
    done = subprocess.run(
        [str(python), "-c", CHILD, str(tmp_path / MEDIAPIPE_FILE)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-1000:]
    for text, found in zip(texts, json.loads(done.stdout.splitlines()[-1]), strict=True):
        with torch.inference_mode():
            logits = source.module(**source.tokenizer(text, return_tensors="pt")).logits[0]
        wanted = torch.softmax(logits, -1).numpy()
        np.testing.assert_allclose([found[label] for label in source.task.labels], wanted, atol=1e-4)
