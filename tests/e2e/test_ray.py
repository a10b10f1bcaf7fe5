"""A batch on a real Ray cluster of two nodes on this machine; one of them dies half way."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tiny import make_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)"),
]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
JOBS = """
[defaults]
targets = ["cpu-int8"]
quantize = {cpu-int8 = "none"}
probes = 30
[[job]]
name = "first"
model = "m"
[[job]]
name = "second"
model = "m"
seed = 1
"""


def node(*words: str) -> "subprocess.Popen[bytes]":
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=90000000"]
    return subprocess.Popen(
        [*ray, *words],
        env=ENVIRONMENT,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.kill()
    process.wait(timeout=30)


def await_in_status(address: str, words: str) -> None:
    status = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    limit = time.monotonic() + 90
    while words not in subprocess.run(status, env=ENVIRONMENT, capture_output=True, text=True, check=False).stdout:
        if time.monotonic() > limit:
            pytest.skip(f"no Ray cluster starts on this machine: it does not say {words!r}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, "subprocess.Popen[bytes]"]]]:
    """A head that runs no job, and two nodes of one CPU each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = node("--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--include-dashboard=false")
    nodes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        await_in_status(address, "Active:")  # a node that comes before its head is ready gives up
        for i, name in enumerate(("one", "two"), 1):  # two that start at the same moment take each other's ports
            nodes[name] = node(f"--address={address}", "--num-cpus=1")
            await_in_status(address, f"/{i}.0 CPU")
        yield address, nodes
    finally:
        for one in (*nodes.values(), head):
            kill(one)


def start(folder: Path, address: str, out: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "converter.commands.cli", "batch", "jobs.toml", "-o", out, "--json"]
    words = [*command, "--ray", address]
    return subprocess.Popen(
        words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def runs_a_job(process: "subprocess.Popen[bytes]") -> bool:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return any("converter.commands.cli" in " ".join(p.cmdline()) for p in family)
    except psutil.NoSuchProcess:
        return False


def test_a_job_whose_node_dies_is_made_on_another(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]]
) -> None:
    address, nodes = cluster
    make_tiny(tmp_path / "m")
    (tmp_path / "jobs.toml").write_text(JOBS, encoding="utf-8")
    batch = start(tmp_path, address, "out")
    limit = time.monotonic() + 120
    while not all(map(runs_a_job, nodes.values())):
        assert batch.poll() is None, "the batch ended before both nodes had a job"
        assert time.monotonic() < limit, "no node has begun a job"
        time.sleep(0.2)
    kill(nodes["one"])
    said, errors = batch.communicate(timeout=240)
    assert batch.returncode == 0, errors
    jobs = json.loads(said)["jobs"]
    assert sorted(job["tries"] for job in jobs) == [1, 2]
    for job in jobs:
        assert (tmp_path / "out" / job["name"] / "cpu-int8" / "manifest.json").is_file()


def test_an_address_where_nothing_answers_is_named(tmp_path: Path) -> None:
    make_tiny(tmp_path / "m")
    (tmp_path / "jobs.toml").write_text(JOBS, encoding="utf-8")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        batch = start(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}", "out")
        said, errors = batch.communicate(timeout=120)
    assert batch.returncode == 5
    assert "no Ray cluster answers" in errors
    assert json.loads(said)["exit_code"] == 5
