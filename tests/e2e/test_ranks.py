"""Several processes that train one model: the first alone writes, all end alike, and the losses are those of one."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from converter.commands.cli import run
from tests.tiny import SENTENCES

ROOT = Path(__file__).parents[2]
DISTILL = "soft:epochs=2,batch_size=7,learning_rate=1e-4,hidden_weight=0"
FLAGS = ("-t", "cpu-int8", "--quantize", "none", "--limit", "agreement=0", "-q")


def start(
    program: Sequence[str], argv: Sequence[Sequence[str]], cwd: Path, **environment: str
) -> list["subprocess.Popen[str]"]:
    """Start one process a command line, as a launcher would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = []
    for rank, words in enumerate(argv):
        several = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(argv)), "OMP_NUM_THREADS": "1"}
        several |= {"LOCAL_WORLD_SIZE": str(len(argv)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        several = {"OMP_NUM_THREADS": "1"} if len(argv) == 1 else several
        made.append(
            subprocess.Popen(
                [*program, *words],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), **several, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return made


def ends(running: "list[subprocess.Popen[str]]") -> tuple[list[int], list[str]]:
    told: list[str] = []
    try:
        told += ["".join(process.communicate(timeout=240)) for process in running]
    finally:
        for process in running:
            process.kill()
    return [p.returncode for p in running], told


@pytest.fixture
def argv(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")

    def words(out: str, *more: str, seed: int = 0, distill: str = DISTILL) -> list[str]:
        compress = ("--prune", "structured:heads=0.5,ffn=0.5,steps=1", "--distill", distill)
        model = str(tiny(layers=1, seed=seed) if seed else tiny(layers=1))
        return [model, *compress, "--calibration", str(texts), *FLAGS, "-o", str(tmp_path / out), *more]

    return words


def curve(out: Path) -> list[float]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return [loss for _, loss in report["compress_records"][-1]["facts"]["loss_curve"]]


@pytest.mark.slow
def test_two_processes_make_one_output_and_learn_what_one_does(
    argv: Callable[..., list[str]], plm_export: list[str], tmp_path: Path
) -> None:
    codes, told = ends(start(plm_export, [argv("two", distill=f"{DISTILL},split_teacher=true")] * 2, tmp_path))
    assert codes == [0, 0], told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts.txt", "two"]
    facts = json.loads((tmp_path / "two" / "report.json").read_text())["compress_records"][-1]["facts"]
    assert (facts["n_processes"], facts["device"]) == (2, "cpu")
    assert run(argv("one", distill=f"{DISTILL},accumulate=2")) == 0  # in this process, which has the libraries
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=1e-3)
    codes, told = ends(start(plm_export, [argv("half")], tmp_path, ACCELERATE_MIXED_PRECISION="bf16"))
    assert codes == [0], told
    halves = curve(tmp_path / "half")
    # Losses of 0.001 to 0.003 here, of outputs with three digits.
    assert halves == pytest.approx(curve(tmp_path / "one"), abs=1e-3)
    assert halves != pytest.approx(curve(tmp_path / "one"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ("another model", 2, "process 1 has another model than process 0"),
        ("missing model", 4, "process 1 has ended with exit code 4"),
        ("nothing to train", 2, "process 1 has nothing to train"),
        ("refused by the first", 2, "the output exists"),
    ],
)
def test_an_error_in_one_process_ends_all_with_its_code(
    wrong: str, code: int, said: str, argv: Callable[..., list[str]], plm_export: list[str], tmp_path: Path
) -> None:
    first, second = argv("out"), argv("out")
    if wrong == "another model":
        second = argv("out", seed=1)
    elif wrong == "nothing to train":
        at = second.index("--distill")
        second[at : at + 2] = []
    elif wrong == "missing model":
        second[0] = str(tmp_path / "nowhere")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
    began = time.monotonic()
    codes, told = ends(start(plm_export, [first, second], tmp_path))
    assert codes == [code, code], told
    assert said in told[0]
    assert time.monotonic() - began < 120
    assert not [p for p in tmp_path.iterdir() if p.name not in {"texts.txt", "out"}]
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_training(
    argv: Callable[..., list[str]], plm_export: list[str], tmp_path: Path
) -> None:
    long = DISTILL.replace("epochs=2", "epochs=3000,checkpoint_seconds=1")
    running = start(plm_export, [argv("out", distill=long)] * 2, tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("**/distill.soft-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.5)
    running[1].send_signal(signal.SIGKILL)
    codes, told = ends(running)
    assert codes == [7, -9], told
    assert "a process of this launch was lost" in told[0]
    assert not (tmp_path / "out" / "report.json").exists()
