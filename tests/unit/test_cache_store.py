"""A store of files by key: whole entries or none, damage is found, the least used goes, a full disk is no error."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from converter.cache.folder import PARTIAL, FolderStore
from converter.cache.remote import RemoteStore
from converter.cache.store import LISTING, MARKER, Entry, Store
from converter.errors import UsageError
from converter.stage_cache.cache import open_cache

KEY = "ab" * 32
ROOT = Path(__file__).parents[2]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path, notes: list[str]) -> Iterator[Store]:
    if request.param == "folder":
        yield FolderStore(tmp_path / "cache", 10_000, notes.append, spare=0)
        return
    yield RemoteStore(f"file://{tmp_path}/cache", 10_000, notes.append)


def files(tmp_path: Path, content: bytes = b"weights") -> Path:
    folder = tmp_path / "files"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model.bin").write_bytes(content)
    (folder / "empty").write_bytes(b"")
    return folder


def fetched(store: Store, entry: Entry, folder: Path) -> dict[str, bytes] | None:
    if not store.fetch(entry, folder):
        return None
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_put_comes_back_with_its_facts(store: Store, tmp_path: Path, notes: list[str]) -> None:
    assert store.put(KEY, "c0", {"x": [1, "é"]}, files(tmp_path))
    assert store.put(KEY, "c1", {"x": 2}, files(tmp_path, b"others"))
    first, second = store.entries(KEY)
    assert (first.facts["x"], second.facts["x"]) == ([1, "é"], 2)
    assert fetched(store, second, tmp_path / "got") == {"deep/model.bin": b"others", "empty": b""}
    assert not list(store.entries("cd" * 32))
    assert not notes


@pytest.mark.parametrize("damage", ["altered", "cut", "longer", "gone", "listing altered", "listing cut", "no table"])
def test_a_damaged_entry_is_found_told_and_removed(store: Store, damage: str, tmp_path: Path, notes: list[str]) -> None:
    store.put(KEY, "c0", {"loss": 0.5}, files(tmp_path))
    model = next((tmp_path / "cache").rglob("model.bin"))
    listing = next((tmp_path / "cache").rglob(LISTING))
    change: dict[str, Any] = {
        "altered": lambda: model.write_bytes(b"Weights"),
        "cut": lambda: model.write_bytes(b"weigh"),
        "longer": lambda: model.write_bytes(b"weights!"),
        "gone": model.unlink,
        "listing altered": lambda: listing.write_text(listing.read_text().replace("0.5", "0.4")),
        "listing cut": lambda: listing.write_bytes(listing.read_bytes()[:-9]),
        "no table": lambda: listing.write_text("[1]"),
    }
    change[damage]()
    entries = list(store.entries(KEY))
    assert all(fetched(store, e, tmp_path / "got") is None for e in entries)
    assert notes
    assert "made again" in notes[-1]
    if damage != "gone" or isinstance(store, FolderStore):  # behind a URL a file may be out of reach for a moment
        assert not list(store.entries(KEY))
    assert store.put(KEY, "c0", {"loss": 0.5}, files(tmp_path))
    (entry,) = store.entries(KEY)
    assert fetched(store, entry, tmp_path / "again") == {"deep/model.bin": b"weights", "empty": b""}


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_an_entry_that_names_a_file_outside_is_refused(store: Store, path: str, tmp_path: Path) -> None:
    from converter.cache.store import _digest

    store.put(KEY, "c0", {}, files(tmp_path))
    listing = next((tmp_path / "cache").rglob(LISTING))
    table = json.loads(listing.read_text())
    table["files"] = {path: [1, "0" * 64]}
    table.pop("sha256")
    listing.write_text(json.dumps({"sha256": _digest(table), **table}))
    assert not list(store.entries(KEY))


def test_the_least_recently_used_goes_first_and_the_bound_is_kept(tmp_path: Path, notes: list[str]) -> None:
    store = FolderStore(tmp_path / "cache", 10_000, notes.append, spare=0)
    for i in range(3):
        store.put(KEY, f"c{i}", {}, files(tmp_path, bytes(2800)))
        os.utime(tmp_path / "cache" / KEY / f"c{i}" / LISTING, (i, i))
    store.fetch(next(iter(store.entries(KEY))), tmp_path / "used")  # c0 is the newest now
    store.put(KEY, "c9", {}, files(tmp_path, bytes(2800)))
    assert [e.name for e in store.entries(KEY)] == ["c0", "c2", "c9"]
    assert store.size_bytes <= 10_000
    assert not store.put(KEY, "ca", {}, files(tmp_path, bytes(11_000)))
    assert "at most" in notes[-1]


def test_behind_a_url_the_bound_is_kept_too(tmp_path: Path, notes: list[str]) -> None:
    store = RemoteStore(f"file://{tmp_path}/cache", 10_000, notes.append)
    for i in range(5):
        assert store.put(KEY, f"c{i}", {}, files(tmp_path, bytes(2800)))
    assert len(list(store.entries(KEY))) <= 3
    assert "c4" in [e.name for e in store.entries(KEY)]


def test_a_full_disk_keeps_nothing_and_ends_nothing(tmp_path: Path, notes: list[str]) -> None:
    store = FolderStore(tmp_path / "cache", 10_000, notes.append, spare=10**18)
    assert not store.put(KEY, "c0", {}, files(tmp_path))
    assert "no room" in notes[-1]
    assert not list(store.entries(KEY))
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith(PARTIAL)] == []


def test_a_cache_of_another_version_is_left_alone(store: Store, tmp_path: Path, notes: list[str]) -> None:
    store.put(KEY, "c0", {}, files(tmp_path))
    (tmp_path / "cache" / MARKER).write_text('{"tool": "plm-export", "format": 99}')
    again = type(store)(str(tmp_path) and _place(store, tmp_path), 10_000, notes.append)  # type: ignore[call-arg,arg-type]
    assert "another version" in notes[-1]
    assert not list(again.entries(KEY))
    assert not again.put(KEY, "c1", {}, files(tmp_path))
    assert (tmp_path / "cache" / KEY / "c0" / LISTING).is_file()


def _place(store: Store, tmp_path: Path) -> Any:
    return tmp_path / "cache" if isinstance(store, FolderStore) else f"file://{tmp_path}/cache"


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not of a cache"):
        open_cache(str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        open_cache(str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be opened"):
        open_cache("nosuchprotocol://somewhere/cache")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys
from pathlib import Path
from converter.cache.folder import FolderStore
store = FolderStore(Path(sys.argv[1]), 60_000, lambda t: None, spare=0)
for round in range(30):
    for i in range(8):
        for entry in store.entries(f"{i:x}" * 64):
            folder = Path(sys.argv[3]) / f"{round}-{i}-{entry.name}"
            if store.fetch(entry, folder):
                assert len((folder / "model.bin").read_bytes()) == 9000
        store.put(f"{i:x}" * 64, "c0", {"i": i}, Path(sys.argv[2]))
"""


def test_processes_that_write_read_and_clean_up_together_never_see_half_an_entry(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "model.bin").write_bytes(bytes(9000))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(given), str(tmp_path / f"out{n}")],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    notes: list[str] = []
    store = FolderStore(tmp_path / "cache", 60_000, notes.append, spare=0)
    found = [e for i in range(8) for e in store.entries(f"{i:x}" * 64)]
    assert found
    assert all(store.fetch(e, tmp_path / "last" / e.key[:1]) for e in found)
    assert not notes
    assert not list((tmp_path / "cache").glob(f"{PARTIAL}*"))


def test_what_a_killed_writer_left_is_removed_but_not_what_a_living_one_writes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "cache", 10_000, lambda _: None)
    left = tmp_path / "cache" / f"{PARTIAL}dead"
    left.mkdir()
    with store._partial() as alive:
        FolderStore(tmp_path / "cache", 10_000, lambda _: None)
        assert alive.is_dir()
    assert not left.exists()


def test_files_of_others_behind_a_url_are_left_alone(tmp_path: Path, notes: list[str]) -> None:
    theirs = tmp_path / "bucket" / "x" / "y"
    theirs.mkdir(parents=True)
    (theirs / LISTING).write_text("{}")
    with pytest.raises(UsageError, match="files that are not of a cache"):
        RemoteStore(f"file://{tmp_path}/bucket", 10_000, notes.append)
    (tmp_path / "cache").mkdir()
    store = RemoteStore(f"file://{tmp_path}/cache", 10_000, notes.append)
    shutil.copytree(tmp_path / "bucket" / "x", tmp_path / "cache" / "x")
    assert store.put(KEY, "c0", {}, files(tmp_path))
    assert (tmp_path / "cache" / "x" / "y" / LISTING).exists()


def test_what_a_killed_upload_has_left_counts_and_goes(tmp_path: Path, notes: list[str]) -> None:
    store = RemoteStore(f"file://{tmp_path}/cache", 1_000, notes.append)
    left = tmp_path / "cache" / ("cd" * 32) / "c0" / "files-1" / "model.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(900))
    assert store.put(KEY, "c0", {}, files(tmp_path, bytes(500)))
    assert not left.exists()
    assert next(iter(store.entries(KEY)), None) is not None


def test_an_entry_can_be_read_by_others_of_the_folder(tmp_path: Path, notes: list[str]) -> None:
    store = FolderStore(tmp_path / "cache", 10_000, notes.append, spare=0)
    given = files(tmp_path)
    (given / "deep" / "model.bin").chmod(0o600)
    given.chmod(0o700)
    assert store.put(KEY, "c0", {}, given)
    own = tmp_path / "own"
    own.mkdir()
    kept = next((tmp_path / "cache").glob("*/c0/*/deep/model.bin"))
    (own / "file").touch()
    assert kept.stat().st_mode & 0o777 == (own / "file").stat().st_mode & 0o777
    assert kept.parents[1].stat().st_mode & 0o777 == own.stat().st_mode & 0o777


class Bucket(MemoryFileSystem):
    """As object stores and SFTP are: no folder is there before a file is in it, and no option that is not of theirs."""

    protocol = "bucket"

    def __init__(self, host: str = "") -> None:
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("bucket://").strip("/")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing."""

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self.pseudo_dirs = [""]
        return super().ls(path, detail, **options)


def test_a_store_begins_where_no_folder_is_before_a_file_is_in_it(tmp_path: Path, notes: list[str]) -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    store = RemoteStore("bucket://new/cache", 10_000, notes.append)
    assert store.put(KEY, "c0", {"x": 1}, files(tmp_path))
    (entry,) = RemoteStore("bucket://new/cache", 10_000, notes.append).entries(KEY)
    assert fetched(store, entry, tmp_path / "got") == {"deep/model.bin": b"weights", "empty": b""}
    assert not notes
