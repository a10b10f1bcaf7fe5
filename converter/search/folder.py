"""The folder of a search: the study, the two parts of the text, what was kept, and nothing of anybody else's."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from converter.data.split import TextSplit
from converter.errors import UsageError
from converter.package.output_lock import OutputLock
from converter.package.output_marker import inspect_place, read_marker, remove_ours

STUDY, TABLE, PAGE, LOCK = "study.sqlite3", "search.json", "report.html", ".search.lock"
MARK = ".plm-export-search.json"
"""Says that the folder is a search's: names such as `text` and `work` prove nothing."""
TEXT, WORK, FINALISTS = "text", "work", "finalists"
BEST, KEPT = "best", "kept-"
OWN = frozenset({STUDY, f"{STUDY}-journal", TABLE, PAGE, LOCK, MARK, TEXT, WORK, FINALISTS})


@dataclass(frozen=True)
class SearchFolder:
    """`-o` of a search; everything in it but packages lies under names of its own."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / STUDY

    @property
    def text(self) -> Path:
        return self.root / TEXT

    @property
    def work(self) -> Path:
        return self.root / WORK

    def new_text(self) -> Path:
        """Return a folder for a text that is split; it becomes that of the search by `with_text`."""
        made = self.work / TEXT
        made.mkdir(exist_ok=True)
        return made

    def with_text(self, made: TextSplit) -> TextSplit:
        """Move a text that was split to where the user finds it.

        Raises:
            UsageError: the study that is there chose by another one.

        """
        files = {name: getattr(made, name) for name in ("learning", "held_back")}
        places = {name: self.text / file.name for name, file in files.items()}
        for name, file in files.items():
            known = places[name]
            if self.study.exists() and known.is_file() and known.read_bytes() != file.read_bytes():
                raise UsageError(
                    "the study there is of another text",
                    where=str(self.study),
                    hint="choose another -o, or add --force to begin again",
                )
        for name, file in files.items():
            file.replace(places[name])
        return replace(made, **places)

    def finalist(self, number: int) -> Path:
        return self.root / FINALISTS / str(number)

    @contextmanager
    def held(self, note: Callable[[str], None], *, force: bool) -> Iterator[None]:
        """Refuse what is not a search's, make the folder, and keep other searches out of it.

        Raises:
            UsageError: there is something of somebody else's, or another search is writing there.

        """
        self._refuse_foreign()
        self.root.mkdir(parents=True, exist_ok=True)
        lock = OutputLock(self.root, self.root / LOCK, ())
        lock.acquire(note, wait=False)
        try:
            self._refuse_changed()
            (self.root / MARK).write_text('{"tool": "plm-export"}\n', encoding="utf-8")
            if force:
                self.clear()
            for folder in (self.text, self.work):
                folder.mkdir(exist_ok=True)
            yield
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
            lock.release()

    def _refuse_foreign(self) -> None:
        root = self.root
        if root.exists() and not root.is_dir():
            raise UsageError("the output is a file", where=str(root), hint="choose another -o")
        if not root.exists():
            return
        there = [p.name for p in root.iterdir() if not _is_package(p)]
        known = OWN if MARK in there else {LOCK}
        foreign = [name for name in there if name not in known]
        if foreign:
            raise UsageError(
                f"the folder holds what is not of a search: {', '.join(sorted(foreign)[:5])}",
                where=str(root),
                hint="choose an empty or new -o",
            )

    def clear(self) -> None:
        """Remove what an earlier search has left here, packages too where nobody has changed them."""
        self.remove_packages()
        for name in (STUDY, f"{STUDY}-journal", TABLE, PAGE):
            (self.root / name).unlink(missing_ok=True)
        for name in (TEXT, WORK, FINALISTS):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def remove_packages(self) -> None:
        """Remove the packages that an earlier search has kept.

        Raises:
            UsageError: somebody has put something there.

        """
        self._refuse_changed()
        for path in self._packages():
            if not remove_ours(path):
                raise _changed(path)

    def _refuse_changed(self) -> None:
        for path in self._packages():
            if inspect_place(path).foreign:
                raise _changed(path)

    def _packages(self) -> list[Path]:
        return [p for p in self.root.iterdir() if _is_package(p)]

    def keep(self, number: int, name: str) -> Path:
        """Move a finalist to where the user finds it."""
        place = self.root / name
        self.finalist(number).rename(place)
        return place

    def end(self) -> None:
        """Remove the finalists that were not kept."""
        shutil.rmtree(self.root / FINALISTS, ignore_errors=True)


def _changed(path: Path) -> UsageError:
    return UsageError(
        "it holds files that no search has made, or that were changed since",
        where=str(path),
        hint="move them away, or choose another -o",
    )


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path.name == BEST or path.name.startswith(KEPT)) and read_marker(path) is not None
