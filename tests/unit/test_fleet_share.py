"""What workers leave at a URL is whole, and stands in place of nothing that is not this tool's."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import psutil
import pytest

from converter.errors import RuntimeMissing, UsageError
from converter.fleet.process import Order
from converter.fleet.share import PARTIAL, Share
from converter.fleet.worker import Sent, work
from converter.package.output_marker import MARKER, write_marker
from converter.stage_cache.identity import own_version

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"file://{tmp_path}/share" if request.param == "file" else "memory://share"
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/share", recursive=True)


def output(folder: Path, **files: str) -> Path:
    """Make what a run leaves."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    write_marker(folder)
    return folder


def there(url: str) -> dict[str, str]:
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    paths = files.find(root) if files.exists(root) else []
    return {p.partition("share/")[2]: files.cat_file(p).decode() for p in paths}


def test_an_output_is_left_and_replaced_only_by_force(url: str, tmp_path: Path) -> None:
    first, second = output(tmp_path / "1", a="1", deep__b="1"), output(tmp_path / "2", a="2")
    share = Share(url, "job")
    share.refuse(force=False)
    assert share.leave(first, force=False) == f"{url}/job"
    with pytest.raises(UsageError, match="an output already"):
        share.leave(second, force=False)
    assert {k: v for k, v in there(url).items() if MARKER not in k and PARTIAL not in k} == {
        "job/a": "1",
        "job/deep/b": "1",
    }
    share.leave(second, force=True)
    assert {k: v for k, v in there(url).items() if MARKER not in k} == {"job/a": "2"}, "nothing of the first is left"


@pytest.mark.parametrize("theirs", ["a file of theirs", "a changed file", "another folder"])
def test_what_is_not_ours_is_never_replaced(theirs: str, url: str, tmp_path: Path) -> None:
    share, made = Share(url, "job"), output(tmp_path / "1", a="1")
    if theirs != "another folder":
        share.leave(made, force=False)
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(f"{root}/job", exist_ok=True)
    files.pipe_file(f"{root}/job/{'a' if theirs == 'a changed file' else 'mine'}", b"mine")
    before = there(url)
    for attempt in (lambda: share.refuse(force=True), lambda: share.leave(made, force=True)):
        with pytest.raises(UsageError, match="did not make"):
            attempt()
    assert {k: v for k, v in there(url).items() if PARTIAL not in k} == before


def test_what_a_lost_worker_has_copied_is_no_output_and_goes(url: str, tmp_path: Path) -> None:
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(f"{root}/{PARTIAL}job", exist_ok=True)
    files.pipe_file(f"{root}/{PARTIAL}job/half", b"half")
    share = Share(url, "job")
    share.refuse(force=False)
    share.leave(output(tmp_path / "1", a="1"), force=False)
    assert sorted(there(url)) == sorted([f"job/{MARKER}", "job/a"])


def sent(tmp_path: Path, share: str | None = None, code: str | None = None) -> Sent:
    return Sent(Order("job", {"model": str(tmp_path / "none")}), {}, code or own_version(), share)


def test_a_place_that_cannot_be_used_costs_a_job_no_time(tmp_path: Path) -> None:
    (tmp_path / "share").write_text("a file", encoding="utf-8")
    for url in (f"file://{tmp_path}/share", "nosuchprotocol://x/y"):
        outcome = work(sent(tmp_path, share=url), {}, "there").outcome
        assert outcome is not None
        assert (outcome.exit_code, outcome.where) == (2, "there"), url
        assert "left there" in str(outcome.error)


def test_a_worker_of_another_version_makes_nothing(tmp_path: Path) -> None:
    outcome = work(sent(tmp_path, code="another"), {}, "there").outcome
    assert outcome is not None
    assert outcome.exit_code == RuntimeMissing.exit_code
    assert "there has another version of plm-export" in str(outcome.error)


PARENT = """
import sys
from pathlib import Path
from converter.fleet.process import Order, run_order
sys.executable = sys.argv[1]
run_order(Order("job", {}), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells nobody that their parent has died")
def test_a_job_ends_when_the_worker_that_waits_for_it_is_killed(tmp_path: Path) -> None:
    (long := tmp_path / "long").write_text("#!/bin/sh\nexec sleep 90\n", encoding="utf-8")
    long.chmod(0o755)
    words = [sys.executable, "-c", PARENT, str(long), str(tmp_path / "out"), str(tmp_path / "logs")]
    parent = subprocess.Popen(words, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert children
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_an_address_where_something_else_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself waits for such a cluster for ever."""
    pytest.importorskip("ray")
    from converter.fleet import ray_cluster

    monkeypatch.setattr(ray_cluster, "SECONDS_TO_CONNECT", 4.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RuntimeMissing, match="answers there"), ray_cluster.connection(address):
            pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
