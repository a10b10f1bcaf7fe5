"""Trials in processes of this machine: the same figures as in one, and a search that ends whatever becomes of them."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from converter.errors import ResourceLimit, StageFailed
from converter.search import local as here
from converter.search.local import Local, room_for
from converter.search.making import TRIES, Handed, Work
from converter.stage import SILENT
from tests.notes import Notes

FIGURES = {"metric": 0.5}


@dataclass(frozen=True)
class Stub:
    """Stands for what a process is told: its bench answers by what the recipe says."""

    damaged: bool = False
    text: str = ""

    def prepared(self, work: Path) -> tuple[Any, Any]:
        if self.damaged:
            os._exit(1)
        return SimpleNamespace(bound=lambda varied: varied), _Bench(work)


@dataclass
class _Bench:
    work: Path
    plain_ms: Any = None
    measured: Any = None

    def measure(self, recipe: Any, share: float) -> Any:
        said = recipe["does"]
        if said == "die" and not (self.work.parent / "died").exists():
            (self.work.parent / "died").touch()
            os._exit(9)
        if said == "starve":
            raise ResourceLimit("memory ran out")
        if said == "refuse":
            raise StageFailed("it does not know this model")
        started = time.monotonic()
        time.sleep(0.5)
        return SimpleNamespace(pid=os.getpid(), started=started, ended=time.monotonic())


def work(does: str) -> Work:
    recipe: Any = {"does": does}
    return Work("measure", recipe, recipe, 1.0)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Local]:
    bench: Any = _Bench(tmp_path / "own", plain_ms={}, measured={})
    local = Local(bench, SILENT)
    given: Any = Stub()
    local.start(given, tmp_path, 2)
    yield local
    local.stop()


def test_two_trials_are_made_at_the_same_time_by_two_processes_and_a_refusal_is_told(made: Local) -> None:
    processes = [p.process for p in made.processes]
    for number in range(4):
        made.begin(number, work("measure" if number < 3 else "refuse"))
    done = {d.number: d for d in (made.ended() for _ in range(4))}
    found: list[Any] = [done[n].found for n in range(3)]
    assert len({f.pid for f in found}) == 2
    assert os.getpid() not in {f.pid for f in found}
    first, second = found[0], found[1]
    assert max(first.started, second.started) < min(first.ended, second.ended)
    assert isinstance(done[3].found, StageFailed)
    assert "does not know this model" in str(done[3].found)
    assert all(d.seconds is not None and d.seconds < 5 for d in done.values()), "without the time to get ready"
    made.stop()
    assert not any(p.is_alive() for p in processes)


def test_a_trial_whose_process_dies_is_made_once_more_by_another(made: Local) -> None:
    made.begin(0, work("die"))
    made.begin(1, work("measure"))
    done = {d.number: d for d in (made.ended() for _ in range(2))}
    assert done[0].tries == 2
    assert not isinstance(done[0].found, Exception)
    assert made.slots == 1


def test_where_memory_runs_out_fewer_are_made_at_once_and_then_it_is_an_error(made: Local) -> None:
    made.begin(0, work("starve"))
    done = made.ended()
    assert made.slots == 1
    assert done.tries == 2
    assert isinstance(done.found, ResourceLimit)


@pytest.mark.parametrize(("starved", "kind"), [(True, ResourceLimit), (False, StageFailed)])
def test_a_package_in_full_that_two_processes_had_no_room_for_is_not_blamed_on_its_recipe(
    made: Local, tmp_path: Path, starved: bool, kind: type[Exception]
) -> None:
    one = made.processes[0]
    one.ready = True
    package = Handed(0, replace(work("starve"), kind="whole", out=tmp_path / "package"), tries=TRIES)
    made._lost(one, "memory ran out", package, starved=starved)
    found = made.ended().found
    assert isinstance(found, kind)
    assert "memory ran out" in str(found)


def test_without_any_process_trials_are_made_in_this_one(tmp_path: Path) -> None:
    bench: Any = _Bench(tmp_path, plain_ms={}, measured={})
    local = Local(bench, SILENT)
    given: Any = Stub(damaged=True)
    local.start(given, tmp_path, 2)
    local.begin(0, work("measure"))
    found: Any = local.ended().found
    assert found.pid == os.getpid()
    local.stop()


def test_a_process_that_dies_before_it_reads_what_it_is_told_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench: Any = _Bench(tmp_path, plain_ms={}, measured={})
    local, given = Local(bench, SILENT), Stub(text="more than a pipe takes at once " * 100_000)
    resource_tracker.ensure_running()
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONHOME", str(tmp_path / "nowhere"))  # the interpreter ends before any code of ours
        local.start(given, tmp_path, 2)  # type: ignore[arg-type]
    local.begin(0, work("measure"))
    found: Any = local.ended().found
    assert found.pid == os.getpid()
    assert local.processes == []


def test_where_the_system_starts_no_more_processes_the_search_goes_on_without(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    bench: Any = _Bench(tmp_path, plain_ms={}, measured={})
    local, notes = Local(bench, progress := Notes()), progress.said
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        local.start(Stub(), tmp_path, 2)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    local.begin(0, work("measure"))
    found: Any = local.ended().found
    assert found.pid == os.getpid()
    assert local.slots == 1
    assert any("no more than 0 processes" in said for said in notes)


def test_there_are_as_many_processes_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_cores", lambda: 8)
    monkeypatch.setattr(here, "available_memory", lambda: 20_000_000_000)
    assert room_for(90_000_000, 4) == 4
    assert room_for(90_000_000, 16) == 4, "of memory: each keeps a gigabyte of what trials share, too"
    assert room_for(20_000_000_000, 8) == 1
    monkeypatch.setattr(here, "_cores", lambda: 2)
    assert room_for(90_000_000, 4) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_no_more_processes_are_started_than_cores_that_this_one_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "available_memory", lambda: 1 << 40)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert room_for(90_000_000, 4) == 1
    finally:
        os.sched_setaffinity(0, before)
