"""Packages that write text, opened unchanged by Optimum: its `generate` writes what our own loop writes."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_marian

HERE = Path(__file__).parent
TEXTS = [*SENTENCES[:6], "a", "Anna"]

pytestmark = pytest.mark.client


def ended(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    """Cut what follows the first token that ends a text."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: stop + 1]


@pytest.mark.parametrize("save", [save_causal, save_marian])
def test_optimum_writes_what_our_loop_writes_alone_and_in_a_batch(
    save: Callable[[Path], Any], client_python: Path, tmp_path: Path
) -> None:
    from converter.generate.loop import generate
    from converter.model_folder.load import load_source
    from converter.onnx.export import ExportOnnx
    from converter.stage import Context, run_stage
    from targets.cpu_int8 import CpuInt8

    source = load_source(str(save(tmp_path / "source")))
    (package := tmp_path / "package").mkdir()
    ctx, target, task = Context(work=tmp_path), CpuInt8(), source.task
    exported, _ = run_stage(ExportOnnx(), source, ctx)
    target.emit(exported, source, package, ctx).verify()
    runner = target.open(package, source.specs)
    settings = task.judged_settings  # type: ignore[attr-defined]
    wanted = []
    for text in TEXTS:
        ids = np.array([source.tokenizer(text)["input_ids"]], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        wanted += generate(runner.run, source.specs, feed, settings).texts(settings)
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text(
        json.dumps({"folder": str(package), "task": task.name, "texts": TEXTS, "steps": settings.max_new_tokens})
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(client_python), str(HERE / "optimum_writing.py"), str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(answered.read_text())
    assert len({tuple(w) for w in wanted}) > 3, "the model writes the same after every text: that proves nothing"
    for way in ("alone", "batch"):
        assert [ended(row, settings.eos_ids) for row in found[way]] == wanted
