"""The output folder: written beside its final place, moved there whole, and nobody's files lost on the way.

OUT is replaced only where its marker says that every file in it is this tool's (`output_marker`), one run at a time
(`output_lock`), and what is not ours is never overwritten, whenever it appeared (`output_commit`).
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from converter.bounds.exhausted import FULL, free_space
from converter.errors import ExportError, ResourceLimit, UsageError
from converter.package.output_commit import InTheWay
from converter.package.output_marker import PlaceFindings, is_measurements, write_marker
from converter.package.output_place import OWNER, Place, remove_checkpoints, remove_run

NAMED = 5
"""So many files are named in a message."""


class Output:
    """A context manager; without `commit()` everything is removed again.

    Attributes:
        folder: what becomes the output.
        work: scratch space on the same disk.
        resume: where long stages keep checkpoints; it outlives an interrupted run and goes with a finished one.

    """

    folder: Path
    work: Path

    def __init__(
        self, out: Path, *, force: bool, wait: bool = False, note: Callable[[str], None] = lambda _text: None
    ) -> None:
        """Nothing is touched yet.

        Args:
            out: where to.
            force: replace an output of this tool.
            wait: wait for a run that is writing there, instead of refusing.
            note: told what an earlier run has left, and what was done about it.

        """
        self._place = Place.of(out)
        self.out, self.resume = self._place.out, self._place.resume
        self._force, self._wait, self._note = force, wait, note
        self._marked = self._done = False

    def __enter__(self) -> Self:
        """Refuse, or take the lock and make the folders.

        Raises:
            UsageError: there is something that must stay, or another run is writing there.
            ResourceLimit: the disk is full.

        """
        self._refuse_impossible()
        with _disk_errors(self.out):
            self._place.around.mkdir(parents=True, exist_ok=True)
            self._lock = self._place.lock()
            self._lock.acquire(self._note, wait=self._wait)
        try:
            with _disk_errors(self.out):
                self._recover()
                self._before = self._findings()
                self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def refuse(self) -> None:
        """Refuse what a run would refuse as it begins, and touch nothing.

        Raises:
            UsageError: there is something that must stay, or nothing can be written there.

        """
        self._refuse_impossible()
        self._findings()

    def _refuse_impossible(self) -> None:
        out = self.out
        if out.is_symlink() and not out.exists():
            raise UsageError("the output is a link to nothing", where=str(out), hint="choose another -o")
        if out.exists() and not out.is_dir():
            raise UsageError("the output is a file", where=str(out), hint="choose another -o")
        here = Path.cwd().resolve()
        if not self._place.inside and out in (here, *here.parents, Path.home().resolve()):
            raise UsageError("refusing to replace the working folder, its parents or the home folder", where=str(out))

    def _recover(self) -> None:
        """Undo and remove what killed runs into this folder have left: who holds the lock knows that they are over."""
        removed = restored = 0
        ways = self._place.ways() if self._lock.proven else ()
        for way, (root, proven) in ((w, run) for w in ways for run in w.runs()):
            if not proven:
                self._note(f"{root} may be of a run that was killed, but does not say so: look into it, then remove it")
                continue
            placement = way.placement(root)
            restored += os.path.lexists(placement.replaced) and not placement.committed
            self._tell_kept(placement.undo())
            self._tell_kept(placement.clean(remove_run))
            removed += 1
        if restored:
            self._note(f"an earlier run was killed while it replaced {self.out}: what stood there before is back")
        elif removed:
            self._note(f"removed what {removed} killed run{'s' * (removed > 1)} into {self.out} had left")

    def _findings(self) -> PlaceFindings:
        """Return what stands at the output's place; `UsageError` where it must stay."""
        found = self._place.look()
        if not found.foreign and (self._force or not found.output):
            return found
        holds = _holds(found.foreign)
        if not self._force:
            raise UsageError(
                "the output exists and is not empty",
                where=str(self.out),
                hint=f"choose another -o (not even --force would replace it: {holds})"
                if found.foreign
                else "choose another -o, or add --force to replace it",
            )
        if found.output:
            raise UsageError(
                f"{holds}; --force replaces only what this tool made and nobody has changed since",
                where=str(self.out),
                hint="move that away, or choose another -o",
            )
        raise UsageError(
            f"--force replaces only what this tool made, and this folder has no marker that says so: {holds}",
            where=str(self.out),
            hint="choose another -o, or remove the folder yourself (earlier versions left no marker)",
        )

    def _begin(self) -> None:
        root = self._place.new_run()
        self._placement = self._place.placement(root, force=self._force)
        self.folder, self.work = self._placement.made, root / "work"
        try:
            self.folder.mkdir()
            self.work.mkdir()
        except BaseException:
            remove_run(root)
            raise

    @property
    def root(self) -> Path:
        """Where all that is half made lies until it is moved into place."""
        return self._placement.root

    def abandon(self) -> None:
        """Remove what is half made and let go of the place, from another thread: the run does not come back."""
        with contextlib.suppress(OSError):
            self._tell_kept(self._placement.undo())
            self._tell_kept(self._placement.clean(remove_run))
        self._lock.release()

    def commit(self) -> None:
        """Move the finished folder into place. What stood there before is removed only after that.

        Raises:
            UsageError: something is there that is not ours, or it cannot be moved; the finished output is kept beside.

        """
        shutil.rmtree(self.work, ignore_errors=True)
        self._let_be_read()
        try:
            self._take_over_measurements()
            write_marker(self.folder)
            self._marked = True
            self._place_it()
        except (InTheWay, OSError) as error:
            raise self._kept_beside(error) from error
        except KeyboardInterrupt:
            # After the last rename it is done, and "nothing was left behind" would be wrong.
            if not (self._marked and self._placement.committed):
                raise
        self._done = True

    def _place_it(self) -> None:
        if not self._place.leads_there:
            raise InTheWay((".",))
        self._placement.place(self._before)

    def _let_be_read(self) -> None:
        """Give every file the mode that new files have here: safetensors writes for its owner alone."""
        mode = self.folder.stat().st_mode & 0o666
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(mode)

    def _take_over_measurements(self) -> None:
        """Keep what `bench --import` has written beside packages of the output that is replaced."""
        for name in self._before.stamps:
            found, kept = self._place.real / name, self.folder / name
            if is_measurements(found, name) and not kept.exists():
                shutil.copyfile(found, kept)

    def _kept_beside(self, error: InTheWay | OSError) -> ExportError:
        """Undo, and give the finished output a name of its own: hours of work may be in it."""
        self._tell_kept(self._placement.undo())
        try:
            kept = self._placement.keep(self.folder, "finished")
        except OSError:
            kept = self.folder
            (self._placement.root / OWNER).unlink(missing_ok=True)  # so that no later run takes it for a leftover
        moved_in = isinstance(error, (InTheWay, FileExistsError))
        names = [n for n in error.names if n != "."] if isinstance(error, InTheWay) else []
        why = "something has appeared there during the run and was left alone" + (
            f" ({_holds(names)})" if names else ""
        )
        if isinstance(error, OSError) and not moved_in:
            why = f"the output cannot be moved there ({os.strerror(error.errno or 0)})"
        raised = ResourceLimit if isinstance(error, OSError) and error.errno in FULL else UsageError
        return raised(
            f"{why}; the finished output is in {kept}",
            where=str(self.out),
            hint="look at both, and move the finished one to where you want it",
        )

    def _tell_kept(self, kept: Sequence[Path]) -> None:
        for path in kept:
            self._note(f"what stood in place of the output, and is not all this tool's, is kept in {path}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(OSError):  # what could not be undone or removed is left to the next run
                if not self._done:
                    self._tell_kept(self._placement.undo())
                if (self._placement.root / OWNER).exists():
                    self._tell_kept(self._placement.clean(remove_run))
            if self._done:
                remove_checkpoints(self.resume)
        finally:
            self._lock.release()
        if isinstance(error, OSError) and error.errno in FULL:
            raise _disk_full(self.out) from error


def resume_folder(out: Path) -> Path:
    """Return where a run into `out` keeps its checkpoints."""
    return Place.of(out).resume


def _holds(names: Sequence[str]) -> str:
    """Return names for a message; what a terminal would obey instead of show is escaped."""
    shown = [n if n.isprintable() else n.encode("unicode_escape").decode() for n in names[:NAMED]]
    return f"it holds {', '.join(shown)}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _disk_full(out) from error
        raise UsageError(
            f"cannot write there ({os.strerror(error.errno or 0)})", where=str(out), hint="choose another -o"
        ) from None


def _disk_full(out: Path) -> ResourceLimit:
    return ResourceLimit(
        f"the disk is full{free_space(out)}; nothing was changed",
        where=str(out),
        hint="free some space, or choose another -o",
    )
