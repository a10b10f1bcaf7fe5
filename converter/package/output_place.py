"""Where an output goes, how it gets there, and what runs that were killed have left around it."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.jsonfile import json_text
from converter.package.output_commit import ByFile, ByRename, Placement
from converter.package.output_lock import OutputLock
from converter.package.output_marker import TOOL, PlaceFindings, is_checkpoint, read_small_json

OWNER = "owner.json"
"""In a run's hidden folder: whose it is. Written first, removed last."""
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Place:
    """An output folder as the file system sees it.

    Attributes:
        out: as it was asked for: absolute, without links but for one at the very end.
        real: the folder itself, behind a link.
        inside: it is written into, file by file, instead of being replaced.

    """

    out: Path
    real: Path
    inside: bool

    @classmethod
    def of(cls, asked: Path) -> "Place":
        path = asked.expanduser().absolute()
        out = path.resolve() if path.name in {"", ".."} else path.parent.resolve() / path.name
        inside = _is_written_into(out)
        return cls(out, out.resolve() if inside else out, inside)

    @property
    def leads_there(self) -> bool:
        """Whether a link still leads to where it led when the run began."""
        return not self.inside or self.out.resolve() == self.real

    @property
    def around(self) -> Path:
        """Where hidden folders of runs lie: on the output's own disk."""
        return self.real if self.inside else self.out.parent

    @property
    def resume(self) -> Path:
        return self.around / f"{self._stem}.resume"

    @property
    def _stem(self) -> str:
        return ".plm-export" if self.inside else f".{self.out.name}"

    def lock(self) -> OutputLock:
        own = self.real / ".plm-export.lock"
        beside = self.real.with_name(f".{self.real.name}.plm-export.lock")
        return OutputLock(self.real, own, (beside,)) if self.inside else OutputLock(self.real, beside, (own,))

    def ways(self) -> "Iterator[Place]":
        """Yield this and, where there is one, the way of a killed run that saw a mount point or a link here.

        It ran in a container, say, and what it left lies inside.
        """
        yield self
        way = Place(self.out, self.real, inside=True)
        if not self.inside and self.out.is_dir():
            with way.lock().stale() as found:
                if found:
                    yield way

    def placement(self, root: Path, *, force: bool = False) -> Placement:
        return ByFile(self.real, root, force=force) if self.inside else ByRename(self.real, root, force=force)

    def look(self) -> PlaceFindings:
        """Tell what stands there before a run has a folder of its own."""
        return self.placement(self.around / f"{self._stem}.partial-").look()

    def new_run(self) -> Path:
        """Make a hidden folder for a run; the caller holds the lock."""
        root = Path(tempfile.mkdtemp(prefix=f"{self._stem}.partial-", dir=self.around))
        owner = {"tool": TOOL, "output": self.out.name, "pid": os.getpid()}
        (root / OWNER).write_text(json_text(owner), encoding="utf-8")
        return root

    def runs(self) -> Iterator[tuple[Path, bool]]:
        """Yield the hidden folders of runs, and whether each is provably one: of the others, the name is all there is.

        Who holds the lock knows that those runs are over.
        """
        wanted = re.compile(re.escape(f"{self._stem}.partial-") + "[a-z0-9_]{8}")
        for root in sorted(self.around.iterdir()):
            if wanted.fullmatch(root.name) and root.is_dir() and not root.is_symlink():
                yield root, _is_run(root)


def _is_written_into(out: Path) -> bool:
    """Tell whether a folder cannot or must not be replaced: a link, a mount point, or one in a folder that is not ours.

    A folder mounted from the same disk (`mount --bind`, a container's volume) looks like any other, but to the kernel.
    """
    if not out.is_dir():
        return False
    if out.is_symlink() or os.path.ismount(out) or not os.access(out.parent, os.W_OK | os.X_OK):
        return True
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return False
    points = (line.split(" ")[4] for line in mounts.splitlines())
    return str(out) in {re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point) for point in points}


def _is_run(root: Path) -> bool:
    """Tell whether a hidden folder is a run's: it says so, or it is one that was killed before it could."""
    owner = read_small_json(root / OWNER)
    if isinstance(owner, dict):
        return owner.get("tool") == TOOL
    return all(p.name == OWNER and p.is_file() and p.stat().st_size == 0 for p in root.iterdir())


def remove_run(root: Path) -> None:
    """Remove a run's folder, what says whose it is last: a killed removal is gone on with."""
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != OWNER:
            path.unlink()
    (root / OWNER).unlink(missing_ok=True)
    root.rmdir()


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that is done, and their folder where nobody else keeps anything there."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_checkpoint(path):
                path.unlink()
        folder.rmdir()
