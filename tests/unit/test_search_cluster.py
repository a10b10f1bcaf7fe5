"""A search on a cluster ends whatever its workers do; a small stand-in answers for Ray."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.commands.cli import run
from converter.errors import StageFailed
from converter.search import cluster as on_cluster
from converter.search.cluster import Cluster
from converter.search.leftovers import PREFIX, own_folder, remove_leftovers
from converter.search.making import Work
from converter.search.worker import Ready, Setup, TrialWorker
from converter.stage import SILENT


class TaskError(Exception):
    cause = None


class NodeError(Exception):
    pass


class Actor:
    """A worker: `does` has, by method, what a call ends with (a result or an exception); without it never."""

    def __init__(self, ray: "StandIn", does: dict[str, Any]) -> None:
        for name in ("prepare", "make", "close"):
            setattr(self, name, SimpleNamespace(remote=self._call(ray, name, does)))

    def _call(self, ray: "StandIn", name: str, does: dict[str, Any]) -> Callable[..., object]:
        def remote(*_given: object) -> object:
            call = object()
            ray.called.append(name)
            if name in does:
                ray.ends[call] = does[name]
            return call

        return remote


class StandIn:
    """As much of Ray as `Cluster` calls; each actor of it is as the next of `workers` says, then the last."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=NodeError)

    def __init__(self, *workers: dict[str, Any], cpus: int) -> None:
        self.workers, self.cpus = list(workers), cpus
        self.ends: dict[object, Any] = {}
        self.called: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}]

    def remote(self, _kind: type) -> Any:
        def made() -> Actor:
            return Actor(self, self.workers.pop(0) if len(self.workers) > 1 else self.workers[0])

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=made))

    def wait(self, calls: list[object], num_returns: int, timeout: float) -> tuple[list[object], list[object]]:
        done = [c for c in calls if c in self.ends][:num_returns]
        if not done:
            time.sleep(timeout)
        return done, [c for c in calls if c not in done]

    def get(self, call: object) -> Any:
        end = self.ends.pop(call)
        if isinstance(end, Exception):
            raise end
        return end

    def kill(self, _actor: object) -> None:
        self.called.append("kill")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster, "SECONDS_TO_COME_BACK", 0.4)
    monkeypatch.setattr(on_cluster, "SECONDS_FOR_OTHERS", 0.1)
    monkeypatch.setattr(on_cluster, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(on_cluster, "SECONDS_TO_CLOSE", 0.02)


def started(ray: StandIn, *targets: str) -> Cluster:
    setup: Any = SimpleNamespace(targets=targets, cpus=1)
    bench: Any = SimpleNamespace(measured={}, plain_ms={})
    made = Cluster(ray, setup, bench, SILENT)
    made.start()
    return made


def work(target: str) -> Work:
    nothing: Any = None
    return Work("measure", nothing, {"targets": (target,)}, 1.0, nothing)


def test_a_trial_whose_call_fails_is_made_once_more_and_then_has_failed() -> None:
    ray = StandIn({"prepare": Ready("a"), "make": TaskError("no such answer")}, cpus=1)
    cluster = started(ray, "cpu-int8")
    cluster.begin(7, work("cpu-int8"))
    done = cluster.ended()
    assert (done.number, done.tries) == (7, 2)
    assert isinstance(done.found, StageFailed)
    assert "no such answer" in str(done.found)
    assert ray.called.count("make") == 2


def test_a_trial_does_not_wait_for_a_worker_that_is_never_scheduled() -> None:
    ray = StandIn({"prepare": Ready("a", lacks={"tflite": "no extra"})}, {}, cpus=2)
    cluster = started(ray, "cpu-int8", "tflite")
    cluster.begin(1, work("tflite"))
    done = cluster.ended()
    assert isinstance(done.found, StageFailed)
    assert "can make tflite" in str(done.found)


def test_workers_are_told_to_remove_their_files_before_they_are_killed() -> None:
    ray = StandIn({"prepare": Ready("a"), "close": None}, cpus=2)
    started(ray, "cpu-int8").stop()
    assert ray.called[-4:] == ["close", "close", "kill", "kill"]


def test_a_worker_removes_its_folder_and_those_of_workers_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f"{PREFIX}{gone.pid}-x"
    others = [tmp_path / f"{PREFIX}{os.getppid()}-x", tmp_path / f"{PREFIX}x", tmp_path / f"other-{gone.pid}-x"]
    for folder in (left, *others):
        folder.mkdir()
        (folder / "file").touch()
    link = tmp_path / f"{PREFIX}{gone.pid}-y"
    link.symlink_to(others[2])
    worker = TrialWorker()
    assert not left.exists()
    own = next(p for p in tmp_path.iterdir() if p.name.startswith(f"{PREFIX}{os.getpid()}-"))
    worker.close()
    assert not own.exists()
    assert all((folder / "file").is_file() for folder in others)
    assert link.is_symlink()


def test_a_folder_that_is_locked_is_in_use_whatever_processes_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = own_folder()
    folder = Path(made.name)
    monkeypatch.setattr("psutil.pid_exists", lambda _pid: False)  # as another container sees it
    remove_leftovers()
    assert folder.is_dir()
    made.cleanup()


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("search", "--cpus", "2"),
        ("batch", "--cpus", "1"),
        ("batch", "--gpus", "0"),
        ("batch", "--share", "memory://x"),
    ],
)
def test_flags_of_a_cluster_are_refused_without_one(
    command: str, flag: str, value: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "x", "-o", str(tmp_path / "out"), flag, value]) == 2
    assert f"{flag} has a meaning only with --ray" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_keep_no_more_in_the_cache_than_the_search_was_told(tmp_path: Path) -> None:
    (files := tmp_path / "files").mkdir()
    (files / "weights").write_bytes(b"x" * 2000)
    nothing: Any = None
    for limit, kept in ((1000, False), (3000, True)):
        setup = Setup({}, nothing, "a", "b", {}, ("cpu-int8",), 0, 1, str(tmp_path / "cache"), limit, "v")
        cache = setup.opened_cache()
        assert cache is not None
        assert cache.store.put("k", "n", {}, files) is kept
