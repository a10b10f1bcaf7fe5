"""The output folder: written beside its final place, moved there in one rename, nothing half made left behind."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from converter.errors import ResourceLimit, UsageError

MARK = "recipe.toml"
"""Every finished output folder has it, so a folder without it is somebody else's."""


class Output:
    """A context manager; without `commit()` everything is removed again.

    Attributes:
        folder: what becomes the output.
        work: scratch space on the same disk.
        resume: where long stages keep checkpoints; it outlives an interrupted run and goes with a finished one.

    """

    def __init__(self, out: Path, *, force: bool) -> None:
        self.out = out.expanduser().absolute()
        self.force = force
        self.resume = self.out.parent / f".{self.out.name}.resume"
        self._done = False

    def __enter__(self) -> Self:
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("the output is a file", where=str(self.out), hint="choose another -o")
        # An empty folder is nobody's loss; a folder with anything in it is.
        if self.out.exists() and not self.force and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise UsageError(
                "the output exists and is not empty",
                where=str(self.out),
                hint="choose another -o, or add --force to replace it",
            )
        if self.out.exists() and any(self.out.iterdir()) and not (self.out / MARK).is_file():
            raise UsageError(
                "--force replaces only what this tool made, and this folder holds something else",
                where=str(self.out),
                hint="choose another -o, or remove the folder yourself",
            )
        if self.out in (Path.cwd(), *Path.cwd().parents, Path.home()):
            raise UsageError(
                "refusing to replace the working folder, its parents or the home folder", where=str(self.out)
            )
        with _disk_errors(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._root = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.partial-", dir=self.out.parent))
            self._root.chmod(0o755)
            self.folder, self.work = self._root / "out", self._root / "work"
            self.folder.mkdir()
            self.work.mkdir()
        return self

    def commit(self) -> None:
        """Move the finished folder into place. What stood there before is removed only after that."""
        self._let_be_read()
        old = self._root / "replaced"
        try:
            if self.out.exists():
                self.out.rename(old)
            self.folder.rename(self.out)
        except BaseException:
            if old.exists() and not self.out.exists():
                old.rename(self.out)
            raise
        self._done = True

    def _let_be_read(self) -> None:
        """Give every file the mode that new files have here: safetensors writes for its owner alone."""
        mode = self.folder.stat().st_mode & 0o666
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        if self._done:
            shutil.rmtree(self.resume, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(self.out) from error


@contextlib.contextmanager
def _disk_errors(out: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(out) from error
        raise UsageError(
            f"cannot write there ({os.strerror(error.errno or 0)})", where=str(out), hint="choose another -o"
        ) from None


def _disk_full(out: Path) -> ResourceLimit:
    return ResourceLimit(
        "the disk is full; nothing was changed", where=str(out.parent), hint="free some space, or choose another -o"
    )
