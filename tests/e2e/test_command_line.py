"""`plm-export` as its users start it: a process, its streams, its exit code, and what is on disk afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.commands import cli
from tests.tiny import SENTENCES

pytestmark = pytest.mark.slow  # one export in a process of its own: about ten seconds, most of them imports

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300


def start(*argv: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "converter.commands.cli", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def plm_export(*argv: str, cwd: Path) -> tuple[int, str, str]:
    process = start(*argv, cwd=cwd)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def in_this_process(capfd: pytest.CaptureFixture[str], *argv: str, cwd: Path) -> tuple[int, str, str]:
    """Run a command that another test starts as a process: seconds of imports are saved."""
    capfd.readouterr()
    with contextlib.chdir(cwd):
        code = cli.run(argv)
    said = capfd.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def exported(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    """Export a tiny model once with `--json`: the output folder, the document, stderr."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "texts.txt").write_text("\n".join(SENTENCES))
    model, flags = str(tiny(layers=1)), ("--target", "cpu_int8", "--quantize", "none", "-o", "out", "--json")
    code, out, err = plm_export(model, *flags, "--eval", "texts.txt", cwd=folder)
    assert code == 0, err
    return folder / "out", json.loads(out), err


def test_json_is_the_one_thing_on_stdout_and_equals_the_report(exported: tuple[Path, Any, str]) -> None:
    out, document, _ = exported
    saved = json.loads((out / "report.json").read_text())
    assert {k: v for k, v in document.items() if k != "made"} == {k: v for k, v in saved.items() if k != "made"}
    assert document["status"] == "PASS"
    assert document["targets"][0]["evaluation"]["agreement"] == 1.0


def test_libraries_are_not_heard(exported: tuple[Path, Any, str]) -> None:
    lines = exported[2].splitlines()
    assert len(lines) <= 6, exported[2]
    assert not any(word in exported[2].lower() for word in ("warning", "deprecat", "loading weights", "torch"))


def test_a_package_is_verified_inspected_compared_and_timed(
    exported: tuple[Path, Any, str], capfd: pytest.CaptureFixture[str]
) -> None:
    out = exported[0]
    code, said, _ = plm_export("verify", "out", cwd=out.parent)
    assert (code, said[:4]) == (0, "PASS")
    code, said, _ = in_this_process(capfd, "inspect", "out", cwd=out.parent)
    assert code == 0
    assert "gate        PASS, agreement 100 %" in said
    same = in_this_process(capfd, "diff", "out/cpu-int8", "out/cpu-int8", cwd=out.parent)
    assert same[:2] == (0, "no difference\n")
    flags = ("--lengths", "16", "--seconds", "0.05", "--cold", "--json")
    code, said, _ = in_this_process(capfd, "bench", "out", *flags, cwd=out.parent)
    assert code == 0, said
    row = json.loads(said)[0]
    assert code == 0
    assert (row["length"], row["threads"]) == (16, 1)
    assert 0 < row["p10"] <= row["milliseconds"] <= row["p90"]
    # A fresh process opened it, and what it took is its own: not that of the process which asked.
    assert row["load_ms"] > 0
    assert row["first_ms"] > 0
    assert 0 < row["peak_mb"] < 100


def test_a_changed_package_is_damaged(
    exported: tuple[Path, Any, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(exported[0], tmp_path / "out")
    with (tmp_path / "out" / "cpu-int8" / "config.json").open("a") as file:
        file.write(" ")
    code, said, err = in_this_process(capfd, "verify", "out/cpu-int8", cwd=tmp_path)
    assert code == 6
    assert said.startswith("FAIL")
    assert "config.json has changed" in err


def test_the_recipe_that_is_saved_runs_again(
    exported: tuple[Path, Any, str], capfd: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = in_this_process(capfd, "--recipe", "recipe.toml", "--dry-run", "--json", cwd=exported[0])
    assert code == 0
    assert json.loads(said) == exported[1]["recipe"]


def test_an_output_in_use_is_left_alone(
    exported: tuple[Path, Any, str], tiny: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(exported[0].parent.rglob("*"))
    code, _, err = in_this_process(capfd, str(tiny()), "-o", "out", cwd=exported[0].parent)
    assert code == 2
    assert "--force" in err
    assert sorted(exported[0].parent.rglob("*")) == before


def test_a_failed_gate_exits_3_and_seals_nothing(
    tiny: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = (
        str(tiny()),
        "--target",
        "cpu-int8",
        "--limit",
        "max_error=0",
        "--probes",
        "20",
        "-o",
        str(tmp_path / "out"),
    )
    assert cli.run(argv) == 3
    said = capfd.readouterr()
    assert "FAIL" in said.out
    assert "error: cpu-int8: gate: max_error" in said.err
    assert not list((tmp_path / "out").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "loading"),
        (signal.SIGINT, "working"),
        (signal.SIGTERM, "loading"),
        (signal.SIGTERM, "working"),
        (signal.SIGHUP, "working"),  # the terminal was closed
    ],
)
def test_an_interrupted_run_leaves_nothing(
    number: signal.Signals, moment: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    with start(str(tiny()), "--target", "cpu-int8", "--probes", "100000", "-o", "out", cwd=tmp_path) as process:
        wait_until(
            process,
            # Python itself catches SIGINT from its start; SIGTERM is caught once the program catches all of them.
            lambda: (
                is_caught(process, signal.SIGTERM)
                if moment == "loading"
                else bool(list(tmp_path.glob(".out.partial-*")))
            ),
        )
        time.sleep(0.3 if moment == "loading" else 1.5)
        process.send_signal(number)
        err = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 130, err
    assert "interrupted; nothing was left behind" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_bars_are_drawn_and_the_cursor_comes_back(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "converter.commands.cli", str(tiny()), "--target", "cpu-int8", "-o", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    seen = read_until(master, "Running the source")
    process.send_signal(signal.SIGINT)
    seen += read_until(master, "interrupted")
    assert process.wait(PATIENCE_SECONDS) == 130
    assert "Exporting" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


def read_until(descriptor: int, wanted: str) -> str:
    seen = b""
    while wanted not in seen.decode("utf-8", "replace"):
        try:
            more = os.read(descriptor, 4096)
        except OSError:  # the other end is gone
            break
        seen += more
    return seen.decode("utf-8", "replace")


def is_caught(process: "subprocess.Popen[str]", number: signal.Signals) -> bool:
    """Tell whether the process has a handler for the signal: on a busy machine that takes longer than a guess."""
    caught = next(r for r in Path(f"/proc/{process.pid}/status").read_text().splitlines() if r.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def wait_until(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not happened() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be interrupted"
