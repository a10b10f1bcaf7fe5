"""The Python sample of a package, run as it ships: what its user starts is part of what is proven."""

import contextlib
import io
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from converter.bounds.files import MEGABYTE
from converter.errors import StageFailed

LARGEST = 1000 * MEGABYTE
"""Of a package whose sample is run: a sample opens the model once more, beside the runner that is open already."""


def try_sample(path: Path, package: Path) -> None:
    """Run the self-test of the sample at `path`, code that this run has written, on the golden texts of `package`.

    Of packages larger than `LARGEST` it is not run, so that what fits into memory once does not fail.

    Raises:
        StageFailed: it does not run, or does not answer as recorded.

    """
    if sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) > LARGEST:
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), _beside(path.parent):
            passed = _module(path).selftest(package)
    except (Exception, SystemExit) as error:
        raise StageFailed(_sentence(path, f"ends in {type(error).__name__}: {error}"), where="samples") from error
    if not passed:
        last = said.getvalue().strip().splitlines()[-1:] or ["it says nothing"]
        raise StageFailed(_sentence(path, f"does not answer as the package does: {last[0]}"), where="samples")


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Import what lies in `folder`, as a script there does; another package may have other modules of these names."""
    bytecode, names = sys.dont_write_bytecode, {p.stem for p in folder.iterdir()}
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(before)


def _module(path: Path) -> ModuleType:
    """Load a file without leaving its name behind."""
    spec = spec_from_file_location(f"_sample_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no module")
    module = module_from_spec(spec)
    # A NamedTuple looks its module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def _sentence(path: Path, what: str) -> str:
    return f"the sample {path.name} that was written for this package {what}"
