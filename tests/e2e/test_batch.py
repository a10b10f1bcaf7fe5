"""A batch: each job its own process; one that fails stops no other, and what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from converter.fleet.batch import _kept
from converter.fleet.inputs import inputs_of
from converter.fleet.jobs import read_jobs
from tests.tiny import make_tiny

JOBS = """
[defaults]
targets = ["cpu-int8"]
quantize = {cpu-int8 = "none"}
probes = 30
[[job]]
name = "good"
model = "m"
[[job]]
name = "gone"
model = "./nowhere"
[[job]]
name = "wrong"
model = "m"
sead = 3
"""


def batch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "converter.commands.cli", "batch", "jobs.toml", "-o", "out", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    make_tiny(folder / "m", layers=1)
    (folder / "jobs.toml").write_text(JOBS, encoding="utf-8")
    done = batch(folder, "--jobs", "2", "--json", "--cache", "cache")
    assert done.returncode == 4, done.stderr
    (folder / "said.json").write_text(done.stdout, encoding="utf-8")
    return folder


def test_jobs_that_fail_stop_no_other(made: Path) -> None:
    jobs = {job["name"]: job for job in json.loads((made / "said.json").read_text(encoding="utf-8"))["jobs"]}
    assert [jobs[name]["exit_code"] for name in ("good", "gone", "wrong")] == [0, 4, 2]
    assert "sead" in jobs["wrong"]["error"]
    assert (made / "out" / "good" / "cpu-int8" / "manifest.json").is_file()
    assert jobs["good"]["packages"][0]["status"] == "PASS"


def test_a_second_batch_keeps_what_is_made_and_runs_the_rest(made: Path) -> None:
    before = (made / "out" / "good" / "report.json").stat().st_mtime_ns
    done = batch(made)
    assert "good: passed (made by an earlier batch, kept)" in done.stderr
    assert (made / "out" / "good" / "report.json").stat().st_mtime_ns == before
    assert done.returncode == 4


def test_a_job_is_kept_only_while_its_files_and_its_package_are_what_they_were(made: Path) -> None:
    out, package = made / "out", made / "out" / "good" / "cpu-int8"
    job = next(one for one in read_jobs(made / "jobs.toml") if one.name == "good")
    before = {row["name"]: row for row in json.loads((out / "batch.json").read_text(encoding="utf-8"))["jobs"]}

    def kept() -> bool:
        return _kept(job, out, before, inputs_of(job, {})) is not None

    assert kept()
    weights, graph = made / "m" / "model.safetensors", next((package / "onnx").glob("*.onnx"))
    for file in (weights, graph, package / "manifest.json", out / "logs" / "inputs" / "good.json"):
        content = file.read_bytes()
        file.write_bytes(content[:-9] + bytes(9))  # as long as before: the model was trained again
        assert not kept(), file
        file.unlink()
        assert not kept(), file
        file.write_bytes(content)
    assert kept()


def test_jobs_take_what_others_made_from_a_cache_that_they_share(made: Path) -> None:
    done = batch(made, "--force", "--cache", "cache")
    assert done.returncode == 4, done.stderr
    report = json.loads((made / "out" / "good" / "report.json").read_text(encoding="utf-8"))
    assert [r["cached"] for r in report["targets"][0]["records"]] == [True]


def test_a_folder_of_other_files_is_left_alone(made: Path) -> None:
    (made / "other").mkdir()
    (made / "other" / "thesis.txt").write_text("mine", encoding="utf-8")
    done = batch(made, "-o", "other")
    assert done.returncode == 2
    assert [p.name for p in (made / "other").iterdir()] == ["thesis.txt"]


def test_an_interrupted_batch_ends_its_jobs_and_leaves_nothing_half_made(made: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "converter.commands.cli", "batch", "jobs.toml", "-o", "cut"]
    process = subprocess.Popen(command, cwd=made, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    log = made / "cut" / "logs" / "good.log"
    limit = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (made / "cut" / "good").exists()
    assert not [p for p in (made / "cut").iterdir() if p.name.startswith(".")]
