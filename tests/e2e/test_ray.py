"""A search and a batch on a real Ray cluster of two nodes on this machine; workers die half way."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.tiny import make_tiny, write_text

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


def node(*words: str, before: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a node; `before` is where its Python looks for modules first."""
    paths = os.pathsep.join([str(before), str(ROOT)] if before else [str(ROOT)])
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=90000000"]
    return subprocess.Popen(
        [*ray, *words],
        env={**ENVIRONMENT, "PYTHONPATH": paths},
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


def start(folder: Path, address: str, out: str, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "converter.commands.cli", "batch", "jobs.toml", "-o", out, "--json"]
    words = [*command, "--ray", address, *more]
    return subprocess.Popen(
        words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def runs_a_job(process: "subprocess.Popen[bytes]") -> bool:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return any("converter.commands.cli" in " ".join(p.cmdline()) for p in family)
    except psutil.NoSuchProcess:
        return False


def trial_workers(processes: "Sequence[subprocess.Popen[bytes]]", doing: str) -> list[psutil.Process]:
    """Return the workers of a search that run a method now: Ray names its processes by that."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [one] if f"TrialWorker.{doing}" in " ".join(one.cmdline()) else []
    return found


def test_a_search_makes_trials_on_workers_and_one_that_is_killed_loses_its_trial_only(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]]
) -> None:
    pytest.importorskip("optuna")
    address, nodes = cluster
    make_tiny(tmp_path / "m", layers=2)
    write_text(tmp_path / "train.tsv", 160)
    without = [f"--without={name}" for name in ("trim", "prune", "share", "factorize", "distill")]
    flags = ["--calibration", "train.tsv", "--target", "cpu-int8", "--trials", "4", "--sampler", "random", *without]
    command = [sys.executable, "-m", "converter.commands.cli", "search", "m", "-o", "out", "--json", *flags]
    words = [*command, "--ray", address, "--cache", str(tmp_path / "cache")]
    search = subprocess.Popen(
        words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 180
    while not (busy := trial_workers(list(nodes.values()), "make")):
        assert search.poll() is None, search.communicate()
        assert time.monotonic() < limit, "no worker has begun a trial"
        time.sleep(0.02)
    family = {one.pid for n in nodes.values() for one in psutil.Process(n.pid).children(recursive=True)}
    busy[0].kill()
    said, errors = search.communicate(timeout=240)
    table = json.loads(said)
    assert search.returncode == table["exit_code"], errors
    states = {trial["state"] for trial in table["trials"]}
    assert len(table["trials"]) == 4
    assert states <= {"measured", "discarded"}, table["trials"]
    assert max(trial["tries"] for trial in table["trials"]) == 2, errors
    assert {trial["where"] for trial in table["trials"] if trial["state"] == "measured"} == {socket.gethostname()}
    assert table["finalists"][0]["figures"] is not None
    assert list((tmp_path / "cache").glob("*/*/entry.json"))
    left = [p.name for pid in family for p in Path(tempfile.gettempdir()).glob(f"plm-export-trials-{pid}-*")]
    assert left == [], "workers remove their folders, and the one that came later that of the one that was killed"


def test_a_worker_without_the_extra_of_a_target_is_named_and_the_job_tried_on_another(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]]
) -> None:
    """On the others the jobs come as far as their model, which is none; where there is no other, the extra is named."""
    pytest.importorskip("litert_torch")
    address, _ = cluster
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}", encoding="utf-8")
    (bare := tmp_path / "bare").mkdir()
    (bare / "sitecustomize.py").write_text("import sys\nsys.modules['litert_torch'] = None\n", encoding="utf-8")
    jobs = "".join(f'[[job]]\nname = "{name}"\nmodel = "m"\n' for name in ("a", "b", "c", "d"))
    (tmp_path / "jobs.toml").write_text(f'[defaults]\ntargets = ["tflite"]\n{jobs}', encoding="utf-8")
    third = node(f"--address={address}", "--num-cpus=2", before=bare)
    try:
        await_in_status(address, "/4.0 CPU")
        made = {}
        for cpus in (1, 2):  # the others have one CPU each
            batch = start(tmp_path, address, f"out{cpus}", "--cpus", str(cpus))
            said, errors = batch.communicate(timeout=240)
            made[cpus] = json.loads(said)["jobs"]
            assert len(made[cpus]) == 4, errors
    finally:
        kill(third)
    assert {job["exit_code"] for job in made[1]} == {4}, made[1]
    assert 2 in {job["tries"] for job in made[1]}
    for job in made[2]:
        assert (job["exit_code"], job["tries"]) == (5, 1)
        assert "litert-torch" in job["error"]
        assert "plm-export[mobile]" in job["hint"]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_job_whose_worker_is_killed_is_made_on_another_node_and_leaves_nothing_running(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]]
) -> None:
    address, nodes = cluster
    make_tiny(tmp_path / "m", layers=1)
    (tmp_path / "jobs.toml").write_text(JOBS.partition('[[job]]\nname = "second"')[0], encoding="utf-8")
    batch = start(tmp_path, address, "out")
    limit = time.monotonic() + 120
    while not (busy := [name for name, node in nodes.items() if runs_a_job(node)]):
        assert batch.poll() is None, "the batch ended before a node had its job"
        assert time.monotonic() < limit, "no node has begun the job"
        time.sleep(0.1)
    family = psutil.Process(nodes[busy[0]].pid).children(recursive=True)
    job = next(p for p in family if "converter.commands.cli" in " ".join(p.cmdline()))
    job.parent().kill()
    assert not psutil.wait_procs([job], timeout=30)[1], "nobody waits for it any more"
    (other,) = set(nodes) - set(busy)
    while not runs_a_job(nodes[other]):
        assert batch.poll() is None, "it was tried again on the node that has lost it"
        time.sleep(0.1)
    said, errors = batch.communicate(timeout=240)
    assert batch.returncode == 0, errors
    assert [job["tries"] for job in json.loads(said)["jobs"]] == [2]


def test_a_job_that_no_node_is_large_enough_for_is_told(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.fleet import ray_cluster
    from converter.fleet.process import Order

    monkeypatch.setattr(ray_cluster, "SECONDS_FOR_ROOM", 2.0)
    (outcome,) = ray_cluster.RayEngine(cluster[0], cpus=64).run([Order("a", {})], tmp_path)
    assert outcome.exit_code == 7
    assert "no node of the cluster has 64 CPUs" in str(outcome.error)


def test_a_job_whose_node_dies_is_made_on_another(
    tmp_path: Path, cluster: tuple[str, dict[str, "subprocess.Popen[bytes]"]]
) -> None:
    address, nodes = cluster
    make_tiny(tmp_path / "m", layers=1)
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
    command = [sys.executable, "-m", "converter.commands.cli", "batch", "jobs.toml", "-o", "here", "-q"]
    assert subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0
    for job in jobs:
        here, there = (tmp_path / out / job["name"] / "cpu-int8" for out in ("here", "out"))
        assert contents(there) == contents(here), "the bytes are those of a run without Ray"
        assert "manifest.json" in contents(there)


def test_an_address_where_nothing_answers_is_named(tmp_path: Path) -> None:
    make_tiny(tmp_path / "m", layers=1)
    (tmp_path / "jobs.toml").write_text(JOBS, encoding="utf-8")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        batch = start(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}", "out")
        said, errors = batch.communicate(timeout=120)
    assert batch.returncode == 5
    assert "no Ray cluster answers" in errors
    assert json.loads(said)["exit_code"] == 5


def test_a_search_names_an_address_where_nothing_answers_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    make_tiny(tmp_path / "m", layers=2)
    write_text(tmp_path / "train.tsv", 60)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--calibration", "train.tsv", "-o", "out", "--ray", address, "--json"]
        words = [sys.executable, "-m", "converter.commands.cli", "search", "m", *flags]
        run = subprocess.run(
            words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )
    assert run.returncode == 5
    assert "no Ray cluster answers" in json.loads(run.stdout)["error"]["message"]
    assert not (tmp_path / "out").exists()
