import errno
from pathlib import Path

import pytest

from converter.errors import ResourceLimit, UsageError
from converter.package.output_folder import MARK, Output


def test_nothing_is_left_when_the_work_is_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Output(tmp_path / "out", force=False) as output:
        (output.folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_moves_into_place_whole(tmp_path: Path) -> None:
    with Output(tmp_path / "out", force=False) as output:
        (output.folder / "file").write_text("x")
        assert not (tmp_path / "out").exists()
        output.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_what_a_library_wrote_for_its_owner_alone_is_read_like_the_rest(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    with Output(tmp_path / "out", force=False) as output:
        (output.folder / "package").mkdir()
        private = output.folder / "package" / "golden.safetensors"
        private.write_text("x")
        private.chmod(0o600)
        output.commit()
    assert (tmp_path / "out" / "package" / "golden.safetensors").stat().st_mode == plain.stat().st_mode


def test_an_output_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UsageError) as caught, Output(tmp_path / "out", force=False):
        pytest.fail("work began")
    assert "--force" in caught.value.hint
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_force_replaces_only_after_success(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    (tmp_path / "out" / MARK).write_text("")
    with pytest.raises(RuntimeError), Output(tmp_path / "out", force=True):
        raise RuntimeError("failed half way")
    assert (tmp_path / "out" / "old").exists()
    with Output(tmp_path / "out", force=True) as output:
        (output.folder / "new").write_text("new")
        output.commit()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_force_never_replaces_what_this_tool_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="only output of plm-export"), Output(tmp_path / "out", force=True):
        pytest.fail("work began")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_a_full_disk_is_a_resource_limit_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceLimit), Output(tmp_path / "out", force=False):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / MARK).write_text("")
    monkeypatch.chdir(tmp_path / "inner")
    for out in (tmp_path, tmp_path / "inner"):
        with pytest.raises(UsageError, match="refusing"), Output(out, force=True):
            pytest.fail("work began")


def test_a_file_in_the_way_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"), Output(tmp_path / "out", force=True):
        pytest.fail("work began")
    assert (tmp_path / "out").read_text() == "mine"


def test_checkpoints_outlive_an_interruption_and_go_with_success(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Output(tmp_path / "out", force=False) as output:
        output.resume.mkdir()
        (output.resume / "step").write_text("10")
        raise KeyboardInterrupt
    with Output(tmp_path / "out", force=False) as output:
        assert (output.resume / "step").read_text() == "10"
        output.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
