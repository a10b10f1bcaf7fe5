"""House rules that a machine can hold."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(p for package in ("converter", "targets", "sample_models") for p in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 40
BANNED_ENDINGS = re.compile(r"(Manager|Helper|Utils|Handler|Processor|Base|Impl)$")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_file_is_one_thing() -> None:
    """All faults are listed: a test a file made half the suite's tests."""
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    assert {file: n for file, n in lines.items() if n > MAX_FILE_LINES} == {}
    assert [name(path) for path in CODE if path.stem in {"utils", "helpers", "misc", "common"}] == []


def test_names_and_sizes_inside_a_file() -> None:
    found = [f"{name(path)}: {fault}" for path in CODE for fault in faults_of(path.read_text(encoding="utf-8"))]
    assert found == []


def faults_of(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ClassDef) and BANNED_ENDINGS.search(node.name):
            yield f"the name {node.name}"
        elif isinstance(node, ast.FunctionDef):
            if long_of(node) > MAX_FUNCTION_LINES:
                yield f"{node.name} is {long_of(node)} lines"
            # The `forward` of a module that takes the place of one of transformers' is called its way.
            if node.args.kwarg is not None and node.name != "forward":
                yield f"{node.name} takes **kwargs"


def test_every_fault_inside_a_file_is_listed() -> None:
    long = "def long():\n" + "    pass\n" * (MAX_FUNCTION_LINES + 1)
    code = f"class FileManager:\n    pass\ndef f(**more):\n    pass\ndef forward(**more):\n    pass\n{long}"
    assert list(faults_of(code)) == ["the name FileManager", "f takes **kwargs", "long is 41 lines"]


def long_of(node: ast.FunctionDef) -> int:
    """Count a function's lines without its decorators, signature and docstring: those are its contract."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_nothing_large_or_made_is_committed() -> None:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for file in filter(None, listed.split("\0")):
        path = ROOT / file
        assert not path.is_file() or path.stat().st_size < 512 * 1024, f"{file} is {path.stat().st_size} bytes"
        assert path.suffix not in {".onnx", ".tflite", ".safetensors", ".bin", ".pt", ".whl"}, file


def test_the_changelog_and_licence_are_there() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, ".ci/run is not executable"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_tests_run_where_nothing_can_be_compiled_beforehand(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = ["pyproject.toml", "constraints.txt", "docs/ci/signing.txt", "environment/.ready", "converter/one.py"]
    # A checkout that nobody may write into, for root too.
    made += ["converter/__pycache__", "targets/two.py", "targets/__pycache__", "sample_models/three.py"]
    for file in made:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "environment" / "bin").mkdir()
    python = f'case "$2" in compileall) exec {sys.executable} "$@";; esac; echo "ran $2"'
    for name, does in {"python": python, "ruff": "true", "mypy": "echo typed"}.items():
        tool = tmp_path / "environment" / "bin" / name
        tool.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        tool.chmod(0o755)
    own = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    words = ["make", "-s", "test", "VENV=environment"]
    done = subprocess.run(words, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[-3:] == ["ran pytest", "mypy: typed", ""]
