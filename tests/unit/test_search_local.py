"""Trials in processes of this machine: the same figures as in one, and a search that ends whatever becomes of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
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
from converter.search.turns import POSSIBLE
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
        (work / "pid").write_text(str(os.getpid()))
        return SimpleNamespace(bound=lambda varied: varied), _Bench(work)


@dataclass
class _Bench:
    work: Path
    plain_ms: Any = None
    measured: Any = None
    alone: Any = nullcontext

    def measure(self, recipe: Any, share: float) -> Any:
        said = recipe["does"]
        if said == "die" and not (self.work.parent / "died").exists():
            (self.work.parent / "died").touch()
            os._exit(9)
        if said == "starve":
            raise ResourceLimit("memory ran out")
        if said == "refuse":
            raise StageFailed("it does not know this model")
        if said.startswith(("train", "time", "tell")):
            return self.beside(said)
        if said == "meet":
            return SimpleNamespace(pid=os.getpid(), met=self.met())
        time.sleep(0.5)
        return SimpleNamespace(pid=os.getpid())

    def met(self) -> bool:
        """Tell whether another process makes such a trial before this one ends."""
        (self.work.parent / f"met-{os.getpid()}").touch()
        last = time.monotonic() + 30
        while len(list(self.work.parent.glob("met-*"))) < 2 and time.monotonic() < last:
            time.sleep(0.01)
        return time.monotonic() < last

    def beside(self, said: str) -> Any:
        """Do what shows whether processes stand still for each other."""
        training = self.work.parent / "training"
        if said.startswith("train"):
            training.touch()
            return self.ticks(60.0 if "long" in said else 2.0)
        while said.endswith("beside training") and not training.exists():
            time.sleep(0.01)
        if said == "tell much":
            return bytes(1 << 20)
        if said.startswith("time"):
            with self.alone():
                if "and die" in said:
                    os._exit(9)
                if "and kill" in said:
                    others = [f for f in self.work.parent.glob("process-*/pid") if f.parent != self.work]
                    os.kill(int(others[0].read_text()), signal.SIGKILL)
                return self.ticks(0.5)
        raise AssertionError(said)

    def ticks(self, seconds: float) -> list[float]:
        """Return when this process ran, all processes by one clock, until it has run for so long."""
        made = [time.monotonic()]
        while len(made) < seconds / 0.01:
            time.sleep(0.01)
            made.append(time.monotonic())
        return made


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
    for number, does in enumerate(("meet", "meet", "measure", "refuse")):
        made.begin(number, work(does))
    done = {d.number: d for d in (made.ended() for _ in range(4))}
    found: list[Any] = [done[n].found for n in range(3)]
    assert len({f.pid for f in found}) == 2
    assert os.getpid() not in {f.pid for f in found}
    assert found[0].met
    assert found[1].met
    assert isinstance(done[3].found, StageFailed)
    assert "does not know this model" in str(done[3].found)
    took = [done[n].seconds for n in (2, 3)]
    assert all(seconds is not None and seconds < 5 for seconds in took), "without the time to get ready"
    made.stop()
    assert not any(p.is_alive() for p in processes)


def between(ticks: list[float], others: list[float]) -> int:
    """Return how often a process ran while another one did; it may end what it began."""
    return sum(others[0] + 0.05 < tick < others[-1] for tick in ticks)


stops = pytest.mark.skipif(not POSSIBLE, reason="no process is stopped on this system")


def results(made: Local, *does: str) -> list[Any]:
    """Let both processes, which are ready, make candidates; returns what became of each."""
    while not all(p.ready for p in made.processes):
        made.begin(0, work("measure"))
        made.ended()
    for number, one in enumerate(does):
        made.begin(number, work(one))
    found = {d.number: d.found for d in (made.ended() for _ in does)}
    return [found[number] for number in range(len(does))]


@stops
def test_while_one_process_times_its_package_the_others_stand_still(made: Local) -> None:
    trained, timed = results(made, "train", "time beside training")
    assert trained[0] < timed[0] < timed[-1] < trained[-1]
    assert between(trained, timed) == 0
    one, other = results(made, "train", "train")
    assert between(one, other) > 50
    one, other = results(made, "time", "time")
    assert between(one, other) == between(other, one) == 0


@stops
def test_what_a_process_takes_is_told_without_the_time_in_which_it_stood_still(made: Local) -> None:
    results(made, "measure", "measure")
    for number, does in enumerate(("train", "time beside training")):
        made.begin(number, work(does))
    done: dict[int, Any] = {d.number: d for d in (made.ended() for _ in range(2))}
    stood = done[0].found[-1] - done[0].found[0] - done[0].seconds
    assert stood > 0.3


@stops
def test_a_process_that_dies_while_it_times_leaves_none_standing(made: Local) -> None:
    trained, died = results(made, "train", "time and die")
    assert len(trained) == 200
    assert isinstance(died, StageFailed)


@stops
def test_the_trial_of_a_process_that_dies_while_it_stands_still_is_made_by_another(made: Local) -> None:
    trained, timed = results(made, "train", "time and kill beside training")
    assert len(trained) == 200
    assert trained[0] > timed[-1]
    assert made.slots == 1


@stops
def test_a_process_that_is_stopped_while_it_tells_much_keeps_nobody_waiting(made: Local) -> None:
    found = results(made, *(["tell much", "time"] * 6))
    assert [len(f) for f in found[::2]] == [1 << 20] * 6


@stops
def test_processes_that_stand_still_are_ended_with_the_search(made: Local) -> None:
    results(made, "measure", "measure")
    processes = [p.process for p in made.processes]
    for one in processes:
        os.kill(one.pid, signal.SIGSTOP)
    began = time.monotonic()
    made.stop()
    assert not any(p.is_alive() for p in processes)
    assert time.monotonic() - began < here.SECONDS_TO_CLOSE, "none had to be killed"


SEARCH = """
import os, sys
from pathlib import Path
from tests.unit.test_search_local import Local, SILENT, Stub, _Bench, results

folder = Path(sys.argv[1])
local = Local(_Bench(folder / "own", plain_ms={}, measured={}), SILENT)
local.start(Stub(), folder, 2)
results(local, "measure", "measure")
print(*(p.process.pid for p in local.processes), flush=True)
if sys.argv[2] == "standing":
    os.kill(local.processes[0].process.pid, 19)
results(local, "train long", "train long")
"""


@stops
@pytest.mark.parametrize("how", ["working", "standing"])
def test_no_process_outlives_a_search_that_is_killed(tmp_path: Path, how: str) -> None:
    """They would go on with minutes of training, and hold folders that the search needs when it is started again."""
    search = [sys.executable, "-c", SEARCH, str(tmp_path), how]
    with subprocess.Popen(search, stdout=subprocess.PIPE, text=True) as begun:
        assert begun.stdout is not None
        pids = [int(pid) for pid in begun.stdout.readline().split()]
        while not (tmp_path / "training").exists():
            time.sleep(0.01)
        begun.kill()
    killed = time.monotonic()
    while any(map(runs, pids)):
        assert time.monotonic() - killed < 10, "its processes went on"
        time.sleep(0.01)
    assert len(pids) == 2


def runs(pid: int) -> bool:
    """Tell whether there is such a process that has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
