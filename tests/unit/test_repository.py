"""House rules that a machine can hold."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(p for package in ("converter", "targets", "sample_models") for p in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 40
BANNED_ENDINGS = re.compile(r"(Manager|Helper|Utils|Handler|Processor|Base|Impl)$")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_file_is_one_thing(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    assert path.stem not in {"utils", "helpers", "misc", "common"}


@pytest.mark.parametrize("path", CODE, ids=name)
def test_names_and_sizes_inside_a_file(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not BANNED_ENDINGS.search(node.name), node.name
        elif isinstance(node, ast.FunctionDef):
            assert long_of(node) <= MAX_FUNCTION_LINES, f"{node.name} is {long_of(node)} lines"
            # The `forward` of a module that takes the place of one of transformers' is called its way.
            assert node.args.kwarg is None or node.name == "forward", f"{node.name} takes **kwargs"


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
