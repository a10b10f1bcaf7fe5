"""A process that runs a TFLite file which writes text has it in memory once, and its cache once."""

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from converter.errors import PackageDamaged, RuntimeMissing
from converter.stage import Context
from converter.tflite.writing import compiled
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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the files for packed weights that are asked for, those of this test in a folder of its own."""
    made: list[str] = []
    right = compiled._compiled

    def noted(path: Path, threads: int, packed: str) -> Any:
        made.append(packed)
        return right(path, threads, packed)

    monkeypatch.setattr(compiled, "_compiled", noted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return made


def test_no_packed_weights_are_written_where_they_would_not_fit(
    path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "PACKED", 10**9)
    compiled.open_compiled(path, 1)
    assert asked == [""]


def test_no_packed_weights_are_written_beyond_a_quota(
    path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(_opened: int, _begin: int, _size: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(compiled, "_is_memory", lambda _: False)
    monkeypatch.setattr(os, "posix_fallocate", refused)
    compiled.open_compiled(path, 1)
    assert asked == [""]
    assert not list(tmp_path.iterdir())


def test_without_a_folder_for_temporary_files_weights_are_packed_in_memory(
    path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    compiled.open_compiled(path, 1)
    assert asked == [""]


def test_packed_weights_of_a_process_that_is_gone_are_removed_and_of_no_other(
    path: Path, asked: list[str], tmp_path: Path
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, locked, own = (
        tmp_path / f"{compiled.PREFIX}{name}" for name in (f"{gone.pid}-a", f"{gone.pid}-b", f"{os.getpid()}-c")
    )
    for folder in (left, locked, own):
        folder.mkdir()
        (folder / "weights").write_bytes(b"packed")
    lock = os.open(locked, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiled.open_compiled(path, 1)
    finally:
        os.close(lock)
    assert set(tmp_path.iterdir()) == {locked, own}
    assert len(asked) == 2, "the weights were packed beside them"


def test_a_file_that_litert_does_not_compile_is_tried_without_packed_weights_and_named(
    tmp_path: Path, asked: list[str]
) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model" * 9)
    with pytest.raises(PackageDamaged, match=r"model\.tflite: LiteRT does not compile it \(\w.*\)"):
        compiled.open_compiled(tmp_path / "model.tflite", 1)
    assert [bool(packed) for packed in asked] == [True, False]


def test_an_error_without_a_word_is_called_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_litert.compiled_model import CompiledModel

    def silent(*_: Any, **__: Any) -> None:
        raise RuntimeError

    (tmp_path / "model.tflite").write_bytes(b"model")
    monkeypatch.setattr(CompiledModel, "from_file", silent)
    with pytest.raises(PackageDamaged, match=r"\(RuntimeError\)"):
        compiled.open_compiled(tmp_path / "model.tflite", 1)


def test_a_litert_that_takes_no_file_for_packed_weights_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_litert import cpu_options

    @dataclass
    class Older:
        num_threads: int = 0

    (tmp_path / "model.tflite").write_bytes(b"model")
    monkeypatch.setattr(cpu_options, "CpuOptions", Older)
    with pytest.raises(RuntimeMissing, match="xnnpack_weight_cache_path") as caught:
        compiled.open_compiled(tmp_path / "model.tflite", 1)
    assert "ai-edge-litert>=2.3" in caught.value.hint
