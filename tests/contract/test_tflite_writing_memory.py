"""A process that runs a TFLite file which writes text has it in memory once, and its cache once."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.errors import PackageDamaged
from converter.stage import Context
from converter.tflite.writing import callers
from converter.tflite.writing.lower import LowerWriter
from tests.fixed_caches import torch_model
from tests.tiny_text import make_text_model

LIMIT = 1.4
"""Of the file and the cache together."""
CACHE = 1024
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "_phone_memory.py"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file of some 50 megabytes in a few matrices, none of which is most of it."""
    folder = tmp_path_factory.mktemp("memory")
    model = make_text_model("gpt2", n_embd=256, n_inner=12288, n_head=4, n_layer=2, n_positions=CACHE)
    source = replace(torch_model(model), max_length=CACHE)
    (folder / "specs.pkl").write_bytes(pickle.dumps(dict(source.specs)))
    made = LowerWriter(CACHE, (32,)).run(source, Context(work=folder)).made
    (folder / "cache").mkdir()
    return made.path.rename(folder / "cache" / "model.tflite")


def measured(path: Path, way: str) -> dict[str, Any]:
    """Run the file in a process of its own, by its signatures of 32 tokens and of one."""
    command = [sys.executable, str(PROGRAM), str(path), way, "prefill_32,decode"]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(made.stdout.strip().splitlines()[-1])
    return row


def test_weights_and_cache_are_in_memory_once(path: Path) -> None:
    own = measured(path, "plm-export")
    assert own["file_and_cache_mb"] > 50, own
    assert own["times"] <= LIMIT, own
    # LiteRT's Interpreter packs the weights for each signature, and has the cache for each.
    assert measured(path, "interpreter")["times"] > 2.2


def test_no_packed_weights_are_written_where_they_would_not_fit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    right = callers._compiled

    def noted(path: Path, threads: int, empty: Path, packed: str) -> Any:
        asked.append(packed)
        return right(path, threads, empty, packed)

    monkeypatch.setattr(callers, "_compiled", noted)
    monkeypatch.setattr(callers, "PACKED", 1e9)
    callers.open_compiled(path, 1)
    assert asked == [""]


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model" * 9)
    with pytest.raises(PackageDamaged, match="not a TFLite model"):
        callers.open_compiled(tmp_path / "model.tflite", 1)
