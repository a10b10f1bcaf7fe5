"""The Python API."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.pipeline import Result, TargetResult, run_recipe
from converter.recipe import Recipe, bind_recipe, load_recipe_table
from converter.stage import SILENT, Progress

if TYPE_CHECKING:
    from converter.target import Runner


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a TOML recipe."""
    return bind_recipe(load_recipe_table(Path(path)), where=str(path))


def convert(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    force: bool = False,
    wait: bool = False,
    require_device: bool = False,
    progress: Progress = SILENT,
) -> Result:
    """Make every package that `recipe` (a `Recipe`, or the table of one) asks for, prove it, and write it under `out`.

    `force` replaces an output of this tool at `out`, and nothing else; `wait` waits for another run that is writing
    there, instead of refusing.

    Raises:
        ExportError: nothing could be made. A single target that failed does not raise; see `Result.exit_code`.

    """
    bound = recipe if isinstance(recipe, Recipe) else bind_recipe(recipe)
    return run_recipe(bound, Path(out), force=force, wait=wait, require_device=require_device, progress=progress)


def verify(package: str | Path, *, threads: int = 1) -> dict[str, Any]:
    """Check every file and what the manifest says, and replay all that is shipped in its runtime; offline.

    Raises:
        PackageDamaged: names the first thing that is wrong.
        GateFailed: nothing is wrong, but the package was never proven.

    """
    from converter.package.verify import verify_package

    return verify_package(Path(package), threads=threads)


def open_package(package: str | Path, *, threads: int = 1) -> "Runner":
    """Open a sealed package in its own runtime."""
    from converter.package.verify import open_sealed

    return open_sealed(Path(package), threads=threads)


__all__ = ["Recipe", "Result", "TargetResult", "convert", "load_recipe", "open_package", "verify"]
