"""A fork of a process that has the libraries (tests/warm.py) is the program that a test would have started."""

import signal
import subprocess
from pathlib import Path

import pytest

from converter.errors import PackageDamaged, UsageError

pytestmark = pytest.mark.slow


def test_words_folder_streams_and_code_are_those_of_the_caller(plm_export: list[str], plain_package: Path) -> None:
    def run(*words: str, said: str = "") -> "subprocess.CompletedProcess[str]":
        asked, place = [*plm_export, *words], plain_package.parent
        return subprocess.run(asked, cwd=place, input=said, capture_output=True, text=True, check=False)

    done = run("run", plain_package.name, said="the old town\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("class ")
    done = run("verify", "nowhere")
    assert done.returncode == PackageDamaged.exit_code
    assert "there is no such folder" in done.stderr
    assert run("verify", "--nonsense").returncode == UsageError.exit_code


def test_who_is_killed_takes_the_program_along(plm_export: list[str], plain_package: Path) -> None:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*plm_export, "run", str(plain_package)], **streams) as process:
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == b"", "the program would hold it, and wait for a text"
    assert process.returncode == -signal.SIGKILL
