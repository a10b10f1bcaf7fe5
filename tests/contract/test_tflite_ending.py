"""A command that has opened a file that writes text ends without the words of LiteRT, however it ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.phone_writers import PhoneWriter

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")

ROOT = Path(__file__).parents[2]
LITERT = "Accelerator"


@pytest.fixture(scope="module")
def package(phone_writer: Callable[[str], PhoneWriter]) -> Path:
    return phone_writer("gpt2").package


def asked(package: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run in a process that Python takes apart: one that ends at once frees nothing."""
    command = [sys.executable, "-m", "converter.commands.cli", "run", str(package), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_an_answer_is_all_that_is_said(package: Path) -> None:
    done = asked(package, "the old town", "--max-new-tokens", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_an_error_is_all_that_is_said(package: Path) -> None:
    done = asked(package, "the old town near the lake was wonderful " * 20)
    assert done.returncode == 2
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["error:", "hint:"], done.stderr


def test_verbose_shows_what_litert_says(package: Path) -> None:
    done = asked(package, "the old town", "--max-new-tokens", "2", "-v")
    assert done.returncode == 0
    assert LITERT in done.stderr
