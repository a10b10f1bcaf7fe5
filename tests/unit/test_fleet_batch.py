"""A batch orders what is to be run; what one job lacks, or the disk refuses, ends no other."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter.fleet.batch import LocalEngine, _unchecked, run_batch
from converter.fleet.inputs import Known, forget, inputs_of, record, was_made_of
from converter.fleet.jobs import Job, read_jobs
from converter.fleet.outcome import Outcome
from converter.fleet.process import LOST, Order, _outcome
from converter.fleet.ray_cluster import _bring, _digest, _Try

UNREADABLE = "/proc/self/mem"
"""A file that everybody may open, and nobody read from its beginning."""
LONG = "/tmp/" + "x" * 300


class Engine:
    """Runs nothing: every job that is ordered ends with what `outcome` says."""

    def __init__(self, outcome: Callable[[Order], Outcome] = lambda o: Outcome(o.name, "", 0, 0.0)) -> None:
        self.outcome = outcome

    def run(self, orders: Sequence[Order], out: Path) -> Iterator[Outcome]:
        yield from map(self.outcome, orders)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "t.tsv"
    path.write_text("good\t1\n", encoding="utf-8")
    return path


def codes(jobs: Sequence[Job], out: Path) -> list[int]:
    return [row["exit_code"] for row in run_batch(jobs, out, Engine())["jobs"]]


@pytest.mark.parametrize("wrong", [{"compress": 3}, {"compress": [3]}, {"label_map": LONG}], ids=str)
def test_a_wrong_job_is_refused_and_the_others_run(tmp_path: Path, wrong: dict[str, object]) -> None:
    assert codes([Job("good", {}), Job("wrong", wrong)], tmp_path / "out") == [0, 2]


@pytest.mark.parametrize(("path", "recorded"), [(LONG, ["one", "other"]), (UNREADABLE, ["one"])])
def test_a_file_that_cannot_be_read_ends_no_batch(tmp_path: Path, path: str, recorded: list[str]) -> None:
    assert codes([Job("one", {}), Job("other", {"eval": path})], tmp_path / "out") == [0, 0]
    assert sorted(p.stem for p in (tmp_path / "out" / "logs" / "inputs").iterdir()) == recorded


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_file_in_a_folder_without_permission_ends_no_batch(tmp_path: Path, text: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert codes([Job("one", {"eval": str(tmp_path / "closed" / "t.tsv")})], tmp_path / "out") == [0]


def test_a_model_of_a_name_that_no_folder_can_have_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text(f"[[job]]\nname = 'a'\nmodel = '{'x' * 300}'\n", encoding="utf-8")
    assert [job.name for job in read_jobs(tmp_path / "jobs.toml")] == ["a"]


def test_what_cannot_be_brought_to_a_worker_ends_its_job_alone(text: Path) -> None:
    def put(_: bytes) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert _digest(UNREADABLE) == ""
    one = _Try(Order("a", {"eval": str(text)}))
    ray = SimpleNamespace(put=put, exceptions=SimpleNamespace(RayError=RuntimeError))
    outcome = _bring(ray, [str(text)], one, {})
    assert outcome is not None
    assert (outcome.exit_code, one.brought) == (7, {})
    assert f"{text} cannot be brought to a worker" in str(outcome.error)


def test_what_a_job_was_made_of_is_no_file_of_another_job(tmp_path: Path, text: Path) -> None:
    jobs, out = [Job(name, {"eval": str(text)}) for name in ("a", "a.inputs", "inputs")], tmp_path / "out"
    codes(jobs, out)
    logged = {f"{job.name}{end}" for job in jobs for end in (".toml", ".log", ".json")}
    made = {p.relative_to(out / "logs").as_posix() for p in (out / "logs").rglob("*.json")}
    assert made == {"inputs/a.json", "inputs/a.inputs.json", "inputs/inputs.json"}
    assert not made & logged


def test_a_disk_that_takes_no_more_ends_no_batch_and_keeps_nothing(tmp_path: Path, text: Path) -> None:
    (logs := tmp_path / "out" / "logs").mkdir(parents=True)
    (logs / "inputs").write_text("in the way", encoding="utf-8")
    job = Job("a", {"eval": str(text)})
    assert codes([job], tmp_path / "out") == [0]
    assert not was_made_of("a", logs, inputs_of(job, {}))


def _other(path: Path) -> None:
    path.write_text("bad!\t0\n", encoding="utf-8")


def _other_and_back(path: Path) -> None:
    content = path.read_bytes()
    _other(path)
    path.write_bytes(content)


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [_other, _other_and_back, _gone])
def test_a_job_whose_file_changed_while_it_ran_is_not_kept(
    change: Callable[[Path], None], tmp_path: Path, text: Path
) -> None:
    content, out, job = text.read_bytes(), tmp_path / "out", Job("a", {"eval": str(text)})

    def outcome(order: Order) -> Outcome:
        change(text)
        return Outcome(order.name, "", 0, 0.0)

    run_batch([job], out, Engine(outcome))
    text.write_bytes(content)
    assert not was_made_of("a", out / "logs", inputs_of(job, {}))
    codes([job], out)
    assert was_made_of("a", out / "logs", inputs_of(job, {}))


def test_a_job_is_of_the_files_that_it_read_until_it_is_begun_again(tmp_path: Path, text: Path) -> None:
    known: Known = {}
    inputs = inputs_of(Job("a", {"eval": str(text)}), known)
    assert set(known) == {str(text)}
    assert not was_made_of("a", tmp_path, inputs)
    record("a", tmp_path, inputs)
    assert was_made_of("a", tmp_path, inputs)
    assert [p.name for p in tmp_path.rglob("*.partial")] == []
    forget("a", tmp_path)
    assert not was_made_of("a", tmp_path, inputs)


def test_what_a_job_that_failed_read_is_not_written_down(tmp_path: Path, text: Path) -> None:
    """A batch that is killed behind it leaves the table of the batch before, in which the job may have passed."""
    job, out = Job("a", {"eval": str(text)}), tmp_path / "out"
    run_batch([job], out, Engine(lambda o: Outcome(o.name, "", 3, 0.0)))
    assert not was_made_of("a", out / "logs", inputs_of(job, {}))


@pytest.mark.parametrize(("status", "unchecked"), [("NOT_RUN", True), ("PASS", False)])
def test_a_batch_that_requires_devices_knows_what_was_not_checked_on_one(status: str, unchecked: bool) -> None:
    checks = [{"name": "agreement", "status": "NOT_RUN"}, {"name": "device", "status": status}]
    targets = [{"evaluation": None}, {"evaluation": {"checks": checks}}]
    assert _unchecked(Outcome("a", "", 0, 0.0, report={"targets": targets})) is unchecked


def test_a_job_that_this_machine_cannot_begin_ends_no_other(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    (out / "logs").write_text("no folder", encoding="utf-8")
    found = list(LocalEngine().run([Order("a", {}), Order("b", {})], out))
    assert [(o.name, o.exit_code) for o in found] == [("a", 2), ("b", 2)]


def test_a_process_that_dies_behind_its_report_came_out_as_the_report_says(tmp_path: Path) -> None:
    document = {"targets": [], "status": "FAIL", "exit_code": 3}
    assert _outcome(Order("a", {}), -11, 1.0, document, tmp_path / "log").exit_code == 3


def test_a_signal_without_a_name_ends_its_job_alone(tmp_path: Path) -> None:
    outcome = _outcome(Order("a", {}), -35, 1.0, {}, tmp_path / "log")
    assert (outcome.exit_code, outcome.error) == (LOST, "its process was ended by signal 35")
