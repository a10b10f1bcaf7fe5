"""Runs that meet: two at once, one after another that was killed, and outputs that are written into."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converter.commands import cli
from converter.errors import UsageError
from converter.package import output_commit
from converter.package.output_commit import rename_new
from converter.package.output_folder import Output, resume_folder
from tests.unit.test_output import begins, make, tree

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from converter.package.output_folder import Output
with Output(Path(sys.argv[1]), force=True) as output:
    (output.folder / "other").write_text("other")
    print(flush=True)
    if not sys.stdin.read(1):
        output.commit()
"""


def python(*argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def another_run(out: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that is writing to `out` and commits when its stdin closes."""
    with python("-c", HOLD, str(out)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n", process.communicate()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["out", "link"])
def test_a_second_run_is_refused_at_once_and_told_which_process_is_writing(name: str, tmp_path: Path) -> None:
    """Through a link too: it is the same folder."""
    make(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    with another_run(tmp_path / "out") as other:
        with pytest.raises(UsageError, match=rf"another run \(process {other.pid}\)") as caught:
            begins(tmp_path / name)
        assert "--wait" in caught.value.hint
        other.communicate()
        assert other.returncode == 0
    assert tree(tmp_path / "out") == {"other": "other"}


def test_a_run_through_a_link_bars_one_that_would_replace_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    with another_run(tmp_path / "link") as other:
        with pytest.raises(UsageError, match=rf"another run \(process {other.pid}\)"):
            begins(tmp_path / "out")
        other.communicate()
    assert tree(tmp_path / "out") == {"other": "other"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]


def test_of_two_runs_into_one_new_output_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    ended: list[str] = []

    def run(word: str) -> None:
        try:
            make(tmp_path / "out", files={word: word})
            ended.append(word)
        except UsageError:
            ended.append("refused")

    threads = [threading.Thread(target=run, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended.count("refused") == 7
    (winner,) = set(ended) - {"refused"}
    assert tree(tmp_path) == {f"out/{winner}": winner}


def test_with_wait_a_run_begins_when_the_other_has_ended(tmp_path: Path) -> None:
    notes: list[str] = []
    with another_run(tmp_path / "out") as other:
        timer = threading.Timer(0.3, lambda: other.stdin and other.stdin.close())
        timer.start()
        started = time.monotonic()
        with Output(tmp_path / "out", force=True, wait=True, note=notes.append) as output:
            assert time.monotonic() - started > 0.2
            assert tree(tmp_path / "out") == {"other": "other"}
            output.commit()
        assert notes == [f"waiting for another run (process {other.pid}) that is writing to {tmp_path / 'out'}"]
        timer.join()


def test_a_run_that_was_killed_holds_no_lock_and_what_it_left_is_removed_and_named(tmp_path: Path) -> None:
    for _ in range(2):
        with another_run(tmp_path / "out") as other:
            other.kill()
    assert [p.name for p in tmp_path.iterdir()] != []
    notes = make(tmp_path / "out")
    assert notes == [f"removed what 1 killed run into {tmp_path / 'out'} had left"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_run_of_another_output_with_a_name_that_begins_alike_is_left_alone(tmp_path: Path) -> None:
    with another_run(tmp_path / "out.partial-b") as other:
        make(tmp_path / "out")
        other.communicate()
        assert other.returncode == 0


def test_what_is_not_provably_a_runs_is_named_and_stays(tmp_path: Path) -> None:
    """As versions before this one left it; and a folder of the user's own that happens to have such a name."""
    left = tmp_path / ".out.partial-abcd_123"
    (left / "replaced").mkdir(parents=True)
    (left / "replaced" / "file").write_text("old output")
    (note,) = make(tmp_path / "out")
    assert str(left) in note
    assert (left / "replaced" / "file").read_text() == "old output"


def test_a_file_of_somebody_elses_is_never_taken_for_a_lock(tmp_path: Path) -> None:
    (tmp_path / ".out.plm-export.lock").write_text("mine")
    with pytest.raises(UsageError, match="not this tool's"):
        begins(tmp_path / "out")
    assert tree(tmp_path) == {".out.plm-export.lock": "mine"}


def kill_at(out: Path, place: str) -> None:
    """Let a run with --force kill itself when it is about to call `rename_new` for the n-th time."""
    code = """
import os, sys
from pathlib import Path
from converter.package import output_commit
from converter.package.output_folder import Output
rename, left = output_commit.rename_new, [int(sys.argv[2])]
def dying(source, target):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    rename(source, target)
output_commit.rename_new = dying
with Output(Path(sys.argv[1]), force=True) as output:
    for name in ("a", "b", "c"):
        (output.folder / name).write_text("new")
    output.commit()
"""
    with python("-c", code, str(out), place) as process:
        _, err = process.communicate()
    assert process.returncode == -9, err


@pytest.mark.parametrize(("name", "place"), [("out", "1"), ("link", "1"), ("link", "3")])
def test_an_output_that_a_killed_run_had_set_aside_is_back_after_the_next(
    name: str, place: str, tmp_path: Path
) -> None:
    old = {"a": "old", "z": "old"}
    make(tmp_path / "out", files=old)
    (tmp_path / "link").symlink_to("out")
    kill_at(tmp_path / name, place)
    assert not (tmp_path / "out").exists() or tree(tmp_path / "out") != old
    notes: list[str] = []
    with pytest.raises(UsageError, match="not empty"), Output(tmp_path / name, force=False, note=notes.append):
        pytest.fail("work began")
    assert "what stood there before is back" in notes[0]
    assert tree(tmp_path / "out") == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]
    make(tmp_path / name, force=True, files={"new": "new"})
    assert tree(tmp_path / "out") == {"new": "new"}


def test_what_a_run_through_a_link_had_set_aside_is_back_after_one_into_the_folder_itself(tmp_path: Path) -> None:
    """As after a container was killed whose volume the folder was."""
    make(tmp_path / "out", files={"a": "old", "z": "old"})
    (tmp_path / "link").symlink_to("out")
    kill_at(tmp_path / "link", "3")
    assert (tmp_path / "out" / ".plm-export.lock").is_file()
    with pytest.raises(UsageError, match="not empty"):
        begins(tmp_path / "out", force=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".plm-export-output.json", "a", "z"]
    assert tree(tmp_path / "out") == {"a": "old", "z": "old"}


def test_a_second_run_is_refused_on_the_command_line_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    with another_run(tmp_path / "out") as other:
        assert cli.run(["no/such-model", "--target", "cpu-int8", "--force", "-o", out]) == 2
        assert f"another run (process {other.pid}) is writing" in capfd.readouterr().err


def test_what_took_the_place_of_an_output_that_was_set_aside_stays_and_the_output_is_kept(tmp_path: Path) -> None:
    make(tmp_path / "out", files={"a": "old"})
    kill_at(tmp_path / "out", "1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="it holds mine"):
        begins(tmp_path / "out")
    assert tree(tmp_path) == {"out/mine": "mine", "out.earlier/a": "old"}


def test_a_link_is_written_into_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    make(tmp_path / "out", files={"a": "1", "tflite/manifest.json": "1"})
    make(tmp_path / "out", force=True, files={"b": "2"})
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "disk") == {"b": "2"}
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == [".plm-export-output.json", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "out"]


def test_what_appears_in_a_folder_that_is_written_into_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    make(tmp_path / "out", files={"a": "old"})
    with pytest.raises(UsageError, match=r"plm-export.finished$"), Output(tmp_path / "out", force=True) as output:
        (output.folder / "a").write_text("new")
        (tmp_path / "disk" / "mine").write_text("mine")
        output.commit()
    assert tree(tmp_path / "disk") == {"a": "old", "mine": "mine", "plm-export.finished/a": "new"}


def test_checkpoints_of_an_output_that_is_written_into_lie_in_it(tmp_path: Path) -> None:
    """What is around a container's volume goes with the container."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    assert resume_folder(tmp_path / "out") == tmp_path / "disk" / ".plm-export.resume"
    assert resume_folder(tmp_path / "new") == tmp_path / ".new.resume"
    with pytest.raises(KeyboardInterrupt), Output(tmp_path / "out", force=False) as output:
        output.resume.mkdir()
        (output.resume / "step").write_text("10")
        raise KeyboardInterrupt
    make(tmp_path / "out")
    assert (tmp_path / "disk" / ".plm-export.resume" / "step").read_text() == "10"


def test_a_link_that_leads_elsewhere_when_the_run_ends_is_followed_nowhere(tmp_path: Path) -> None:
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "out").symlink_to("disk")
    with pytest.raises(UsageError, match=r"disk/plm-export.finished$"), Output(tmp_path / "out", force=True) as output:
        (output.folder / "a").write_text("new")
        (tmp_path / "out").unlink()
        (tmp_path / "out").symlink_to("other")
        output.commit()
    assert tree(tmp_path) == {"disk/plm-export.finished/a": "new"}


def test_where_the_file_system_has_no_locks_that_is_said_and_nothing_of_other_runs_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_run(tmp_path / "out") as other:
        other.kill()

    def refused(_opened: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    (left,) = tmp_path.glob(".out.partial-*")
    (note,) = make(tmp_path / "out")
    assert "without locks" in note
    assert left.is_dir()


MOUNTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.test_output import make, tree
out = Path(sys.argv[2])
own = ["lost+found"] if out.is_mount() else []  # at the root of a disk, so not in a folder bound from another place
for name in own:
    (out / name).mkdir()
make(out, files={"a": "1", "tflite/manifest.json": "1"})
make(out, force=True, files={"b": "2"})
assert tree(out) == {"b": "2"}, tree(out)
assert sorted(p.name for p in out.iterdir()) == [".plm-export-output.json", "b", *own]
assert [p.name for p in out.parent.iterdir() if "out" in p.name] == ["out"]
"""


@pytest.mark.parametrize("mount", ["mount -t tmpfs none out", "mount --bind disk out"])
def test_a_mount_point_is_written_into(mount: str, tmp_path: Path) -> None:
    """As a container's volume is; a folder bound from the same disk looks like any other."""
    unshare = shutil.which("unshare")
    allowed = ["--user", "--map-root-user", "--mount"] if os.getuid() else ["--mount"]
    if unshare is None or subprocess.run([unshare, *allowed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here")
    for name in ("out", "disk"):
        (tmp_path / name).mkdir()
    script = f'{mount} && exec "$@"'
    argv = [sys.executable, "-c", MOUNTED, str(ROOT), str(tmp_path / "out")]
    done = subprocess.run(
        [unshare, *allowed, "sh", "-c", script, "sh", *argv], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("exclusive", [True, False], ids=["the system's own call", "without it"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_rename_replaces_nothing(kind: str, exclusive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exclusive:
        monkeypatch.setattr(output_commit, "_rename_exclusively", lambda *_: False)
    source = tmp_path / "source"
    source.write_text("x") if kind == "file" else source.mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(FileExistsError):
            rename_new(source, tmp_path / name)
    rename_new(source, tmp_path / "target")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "link", "target"]
    assert (tmp_path / "file").read_text() == "mine"


def kills(*argv: str, code: str = "") -> dict[str, object]:
    """Run `tests/kills.py` in a fresh process, which has no threads and may fork."""
    where = ("--folder", "/dev/shm") if os.access("/dev/shm", os.W_OK) else ()
    script = f"{code}\nfrom tests import kills\nkills.main()"
    with python("-c", script, *argv, *where) as process:
        out, err = process.communicate()
    assert out, err
    return dict(json.loads(out))


def test_a_kill_at_any_moment_loses_nothing_and_the_next_run_works() -> None:
    """More of it, and every call of the commit: `benchmarks/kills.py`."""
    found = kills("--kills", "40", "--seed", str(os.getpid()))
    assert found["faults"] == []
    assert found["kills"] == 40


def test_kills_are_seen_to_lose_something_where_nothing_is_undone() -> None:
    broken = "from converter.package import output_commit as c\nc.ByRename.undo = c.ByFile.undo = lambda self: []"
    assert kills("--kills", "60", "--seed", "1", code=broken)["faults"]
