"""Packages left at a URL that fsspec opens: whole or not at all, and in place of nothing that is not this tool's.

What a job made is copied beside its place first. It is moved there when all of it has arrived, its marker last.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converter.errors import ExportError, RuntimeMissing, UsageError
from converter.package.output_marker import LITTER, MARKER, MAX_MARKER_BYTES, files_told

PARTIAL = ".plm-export-partial-"
"""Before the name of a job: what is being copied, or what a worker that was lost has left of it."""
NAMED = 5


class Share:
    """The place of one job below a URL."""

    def __init__(self, url: str, name: str) -> None:
        """Open the URL.

        Raises:
            RuntimeMissing: this machine lacks the package that opens it.
            UsageError: nothing opens it.

        """
        from fsspec.core import url_to_fs

        self.url = f"{url.rstrip('/')}/{name}"
        try:
            self._files, root = url_to_fs(url)
        except ImportError as error:
            raise RuntimeMissing(f"this place cannot be opened here ({error})", where=url) from None
        except Exception as error:  # noqa: BLE001 - every implementation of fsspec raises its own
            raise _unusable(url, error) from None
        self._root = root.rstrip("/")
        self._place, self._partial = f"{self._root}/{name}", f"{self._root}/{PARTIAL}{name}"

    def refuse(self, *, force: bool) -> None:
        """Refuse what cannot be left there, before there is anything to leave.

        Raises:
            UsageError: something is there that is not provably this tool's, or, without `force`, anything at all.

        """
        try:
            self._files.makedirs(self._root, exist_ok=True)
            names = list(self._names())
            listed = self._listed() if names else {}
            foreign = [name for name in names if not self._is_ours(name, listed)]
        except Exception as error:  # noqa: BLE001 - see above
            raise _unusable(self.url, error) from None
        if foreign:
            shown = ", ".join(foreign[:NAMED])
            raise UsageError(
                f"there is something that this tool did not make: {shown}", where=self.url, hint="another --share"
            )
        if names and not force:
            raise UsageError(
                "there is an output already", where=self.url, hint="another --share, or --force to replace it"
            )

    def leave(self, out: Path, *, force: bool) -> str:
        """Copy an output folder there, in place of one that this tool has left; returns where it is.

        Raises:
            UsageError: it is not to be replaced, or nothing can be written.

        """
        names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
        try:
            self._remove(self._partial)
            for name in names:
                self._put(out / name, f"{self._partial}/{name}")
            self.refuse(force=force)  # hours may have gone by
            self._remove(self._place)
            self._move(names)
        except ExportError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            raise _unusable(self.url, error) from None
        return self.url

    def _names(self) -> Iterator[str]:
        if self._files.exists(self._place):
            self._files.invalidate_cache()
            for path in self._files.find(self._place):
                yield str(path).partition(f"{self._place}/")[2] or str(path)

    def _listed(self) -> dict[str, str]:
        """Return the digests that the marker of a finished output tells."""
        path = f"{self._place}/{MARKER}"
        if not self._files.exists(path) or (self._files.size(path) or 0) > MAX_MARKER_BYTES:
            return {}
        try:
            return files_told(json.loads(self._files.cat_file(path))) or {}
        except (ValueError, RecursionError):
            return {}

    def _is_ours(self, name: str, listed: dict[str, str]) -> bool:
        if name in LITTER or (listed and name == MARKER):
            return True
        if name not in listed:
            return False
        with self._files.open(f"{self._place}/{name}", "rb") as opened:
            return listed[name] == f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"

    def _put(self, given: Path, place: str) -> None:
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(given), place)

    def _move(self, names: Sequence[str]) -> None:
        from fsspec.implementations.local import LocalFileSystem

        if isinstance(self._files, LocalFileSystem):  # one rename
            self._files.mv(self._partial, self._place)
            return
        for name in sorted(names, key=lambda name: name == MARKER):
            place = f"{self._place}/{name}"
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._files.mv(f"{self._partial}/{name}", place)
        self._remove(self._partial)

    def _remove(self, place: str) -> None:
        self._files.invalidate_cache()
        if self._files.exists(place):
            self._files.rm(place, recursive=True)


def _unusable(url: str, error: Any) -> UsageError:
    said = f"{type(error).__name__}: {error}"
    return UsageError(f"nothing can be left there ({said})", where=url, hint="another --share")
