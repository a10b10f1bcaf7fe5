"""Where made samples are kept: whole, or not at all."""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from converter.cache.location import cache_root

if TYPE_CHECKING:
    from converter.stage import Progress

Make = Callable[[Path, "Progress"], None]


def cached(name: str, make: Make, progress: "Progress") -> Path:
    """Return `<cache>/samples/<version>/<name>`, made by `make` in a temporary folder and renamed when it is whole.

    Two processes that want the same sample make it once: the second waits for the first.
    """
    wanted = cache_root() / "samples" / version(name) / name
    if wanted.is_dir():
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with _lock(wanted.with_name(f".{name}.lock")):
        if not wanted.is_dir():
            _make(wanted, make, progress)
    return wanted


def version(name: str) -> str:
    """Return a digest of the code and data that make the sample: what is changed makes a new one."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted((*here.glob(f"{name}.py"), *here.glob(f"{name}_*"), *here.glob("_*.py"))):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _make(wanted: Path, make: Make, progress: "Progress") -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{wanted.name}.partial-", dir=wanted.parent))
    try:
        partial.chmod(0o755)
        make(partial, progress)
        partial.rename(wanted)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # given back when the file closes, and when the process dies
        yield
