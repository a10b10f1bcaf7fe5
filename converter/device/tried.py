"""The Python sample of a package, run as it ships: what its user starts is part of what is proven."""

import contextlib
import io
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from converter.errors import StageFailed


def try_sample(path: Path, package: Path) -> None:
    """Run the self-test of the sample at `path`, code that this run has written, on the golden texts of `package`.

    Raises:
        StageFailed: it does not run, or does not answer as recorded.

    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            passed = _module(path).selftest(package)
    except Exception as error:
        raise StageFailed(_sentence(path, f"ends in {type(error).__name__}: {error}"), where="samples") from error
    if not passed:
        last = said.getvalue().strip().splitlines()[-1:] or ["it says nothing"]
        raise StageFailed(_sentence(path, f"does not answer as the package does: {last[0]}"), where="samples")


def _module(path: Path) -> ModuleType:
    """Load a file without leaving compiled code beside it, or a name behind."""
    spec = spec_from_file_location(f"_sample_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no module")
    module, before = module_from_spec(spec), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    # A NamedTuple looks its module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
        del sys.modules[spec.name]
    return module


def _sentence(path: Path, what: str) -> str:
    return f"the sample {path.name} that was written for this package {what}"
