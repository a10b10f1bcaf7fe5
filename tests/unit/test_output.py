import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.errors import ResourceLimit, UsageError
from converter.package.output_folder import Output
from converter.package.output_marker import MARKER


def make(out: Path, *, force: bool = False, files: dict[str, str] | None = None, **options: object) -> list[str]:
    """Make an output of `files`; returns what was said."""
    notes: list[str] = []
    with Output(out, force=force, note=notes.append, **options) as output:  # type: ignore[arg-type]
        for name, text in (files or {"recipe.toml": "recipe", "tflite/model.tflite": "model"}).items():
            (output.folder / name).parent.mkdir(exist_ok=True)
            (output.folder / name).write_text(text)
        output.commit()
    return notes


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files if p.name != MARKER}


def begins(out: Path, *, force: bool = True) -> None:
    with Output(out, force=force):
        pytest.fail("work began")


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
    assert tree(tmp_path / "out") == {"file": "x"}


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
    with pytest.raises(UsageError) as caught:
        begins(tmp_path / "out", force=False)
    assert "not even --force would replace it: it holds mine" in caught.value.hint
    assert tree(tmp_path) == {"out/mine": "keep"}


def test_an_output_of_ours_is_replaced_only_with_force(tmp_path: Path) -> None:
    make(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(UsageError) as caught:
        begins(tmp_path / "out", force=False)
    assert caught.value.hint.endswith("add --force to replace it")
    assert tree(tmp_path) == before


def test_force_replaces_only_after_success(tmp_path: Path) -> None:
    make(tmp_path / "out", files={"old": "old"})
    with pytest.raises(RuntimeError), Output(tmp_path / "out", force=True):
        raise RuntimeError("failed half way")
    assert tree(tmp_path) == {"out/old": "old"}
    make(tmp_path / "out", force=True, files={"new": "new"})
    assert tree(tmp_path) == {"out/new": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["recipe.toml", MARKER])
def test_a_project_of_the_users_own_is_never_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / name).write_text('{"tool": "plm-export", "format": 1}')
    (tmp_path / "out" / "data" / "thesis.tex").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"only what this tool made, .*it holds .*data"):
        begins(tmp_path / "out")
    assert tree(tmp_path) == before


def _edit(out: Path) -> str:
    (out / "recipe.toml").write_text("RECIPE")
    return "recipe.toml"


def _add(out: Path) -> str:
    (out / "tflite" / "notes").write_text("mine")
    return "tflite/notes"


def _add_folder(out: Path) -> str:
    (out / "mine").mkdir()
    return "mine/"


def _link(out: Path) -> str:
    (out / "tflite" / "model.tflite").rename(out.parent / "model")
    (out / "tflite" / "model.tflite").symlink_to(out.parent / "model")
    return "tflite/model.tflite"


@pytest.mark.parametrize("change", [_edit, _add, _add_folder, _link])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_what_a_user_put_into_an_output_is_named_and_stays(
    change: Callable[[Path], str], moment: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(out)
    if moment == "before":
        name = change(out)
        before = tree(tmp_path)
        with pytest.raises(UsageError, match=f"it holds {name}"):
            begins(out)
        assert tree(tmp_path) == before
        return
    with pytest.raises(UsageError, match=r"out.finished$") as caught, Output(out, force=True) as output:
        (output.folder / "new").write_text("new")
        name = change(out)
        before = {n: t for n, t in tree(tmp_path).items() if n.startswith("out/")}
        output.commit()
    assert f"it holds {name}" in str(caught.value)
    assert {n: t for n, t in tree(tmp_path).items() if n.startswith("out/")} == before
    assert tree(tmp_path / "out.finished") == {"new": "new"}


def test_what_systems_write_wherever_one_looks_is_nobodys(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / ".DS_Store").write_text("x")
    (tmp_path / "out" / "tflite" / "__pycache__").mkdir()
    (tmp_path / "out" / "tflite" / "__pycache__" / "sample.pyc").write_text("x")
    make(tmp_path / "out", force=True, files={"new": "new"})
    assert tree(tmp_path) == {"out/new": "new"}


def test_an_output_is_ours_where_it_was_copied_to_and_where_some_of_it_is_gone(tmp_path: Path) -> None:
    make(tmp_path / "made")
    shutil.copytree(tmp_path / "made", tmp_path / "out")
    (tmp_path / "out" / "recipe.toml").unlink()
    make(tmp_path / "out", force=True, files={"new": "new"})
    assert tree(tmp_path / "out") == {"new": "new"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["folder", "empty folder", "file", "link"])
def test_what_appears_at_the_output_during_a_run_stays_and_the_work_is_kept(
    what: str, force: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UsageError, match="appeared there during the run") as caught, Output(out, force=force) as output:
        (output.folder / "new").write_text("new")
        if what == "file":
            out.write_text("mine")
        elif what == "link":
            out.symlink_to("elsewhere")
        else:
            out.mkdir()
        if what == "folder":
            (out / "mine").write_text("mine")
        output.commit()
    assert str(tmp_path / "out.finished") in str(caught.value)
    kept = {"folder": {"out/mine": "mine"}, "file": {"out": "mine"}}.get(what, {})
    assert tree(tmp_path) == {"out.finished/new": "new", **kept}
    assert out.is_symlink() == (what == "link")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "out", "out.finished"]


def test_an_output_that_another_program_finished_meanwhile_is_not_replaced_without_force(tmp_path: Path) -> None:
    make(tmp_path / "other", files={"other": "other"})
    with pytest.raises(UsageError, match="appeared"), Output(tmp_path / "out", force=False) as output:
        (tmp_path / "other").rename(tmp_path / "out")
        output.commit()
    assert tree(tmp_path / "out") == {"other": "other"}


def test_work_is_kept_under_a_name_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "out.finished").write_text("mine")
    with pytest.raises(UsageError, match=r"out.finished-2$"), Output(tmp_path / "out", force=False) as output:
        (tmp_path / "out").mkdir()
        output.commit()
    assert (tmp_path / "out.finished").read_text() == "mine"


def test_work_is_kept_where_the_output_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", files={"old": "old"})
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == "out":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UsageError, match=r"busy.*out.finished$"), Output(tmp_path / "out", force=True) as output:
        (output.folder / "new").write_text("new")
        output.commit()
    assert tree(tmp_path) == {"out/old": "old", "out.finished/new": "new"}


def test_a_folder_that_was_private_stays_private(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    make(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_measurements_that_were_imported_outlive_a_replacement(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "tflite.devices.json").write_text('{"package": "x", "results": []}')
    make(tmp_path / "out", force=True, files={"new": "new"})
    make(tmp_path / "out", force=True, files={"newer": "newer"})
    assert sorted(tree(tmp_path / "out")) == ["newer", "tflite.devices.json"]


def test_a_full_disk_is_a_resource_limit_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceLimit), Output(tmp_path / "out", force=False):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "outer")
    (tmp_path / "outer" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    for out in (Path(), Path(".."), tmp_path / "outer", tmp_path / "outer" / "inner"):
        with pytest.raises(UsageError, match="refusing"):
            begins(out)


def test_a_file_or_a_link_to_nothing_in_the_way_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is a file"):
        begins(tmp_path / "out")
    with pytest.raises(UsageError, match="link to nothing"):
        begins(tmp_path / "link")
    assert tree(tmp_path) == {"out": "mine"}


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "\x1b[2J").write_text("x")
    with pytest.raises(UsageError) as caught:
        begins(tmp_path / "out")
    assert str(caught.value).isprintable()


def test_checkpoints_outlive_an_interruption_and_go_with_success(tmp_path: Path) -> None:
    import torch

    from converter.training.checkpoint import Checkpoint, save_checkpoint

    with pytest.raises(KeyboardInterrupt), Output(tmp_path / "out", force=False) as output:
        path = output.resume / f"distill.soft-{'0' * 16}.safetensors"
        save_checkpoint(path, Checkpoint(10, 1.0, {}, {"w": torch.zeros(2000)}), "key")
        raise KeyboardInterrupt
    with Output(tmp_path / "out", force=False) as output:
        assert path.is_file()
        path.with_suffix(".partial").write_text("of a run that was killed")
        output.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_files_of_others_where_checkpoints_are_kept_stay(tmp_path: Path) -> None:
    mine = tmp_path / ".out.resume" / f"weights-{'0' * 16}.safetensors"
    mine.parent.mkdir()
    mine.write_text("mine")
    make(tmp_path / "out")
    assert mine.read_text() == "mine"


def test_an_output_with_empty_folders_is_finished_and_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with Output(tmp_path / "out", force=True) as output:
            (output.folder / "package" / "2_Normalize" / "inner").mkdir(parents=True)
            (output.folder / "package" / "model").write_text(text)
            output.commit()
    assert (tmp_path / "out" / "package" / "model").read_text() == "second"
    assert not (tmp_path / "out" / "package" / "2_Normalize").exists()
