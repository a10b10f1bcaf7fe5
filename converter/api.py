"""The Python API."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.watch import NO_LIMITS, Limits
from converter.context import DeviceMap
from converter.errors import ExportError
from converter.pipeline import Result, TargetResult, run_recipe
from converter.recipe import Recipe, bind_recipe, load_recipe_table
from converter.stage import SILENT, OtherRanks, OutcomeCache, Progress

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
    sign: str | Path | None = None,
    require_licence: bool = False,
    progress: Progress = SILENT,
    limits: Limits = NO_LIMITS,
    last_word: Callable[[ExportError], None] = lambda _: None,
    cache: OutcomeCache | str | None = None,
    ranks: OtherRanks | None = None,
    device_map: DeviceMap | None = None,
) -> Result:
    """Make every package that `recipe` (a `Recipe`, or the table of one) asks for, prove it, and write it under `out`.

    `force` replaces an output of this tool at `out`, and nothing else; `wait` waits for another run that is writing
    there, instead of refusing. `sign`: a private key in PEM, by which packages that passed are signed.
    `require_licence` refuses a model that does not state its licence. `limits` of memory, disk and time end the run
    with an error where they are reached, and are estimated first; `last_word` is told of it where the process itself
    has to end. `cache` is a folder or an fsspec URL that keeps what stages made, for later runs.
    `device_map="auto"` leaves weights of the source on disk for which there is no room in memory.
    `ranks` are the other processes of a launch: the command line finds them.

    Raises:
        ExportError: nothing could be made. A single target that failed does not raise; see `Result.exit_code`.

    """
    bound = recipe if isinstance(recipe, Recipe) else bind_recipe(recipe)
    key = None if sign is None else Path(sign)
    if isinstance(cache, str):
        from converter.stage_cache.cache import open_cache

        cache = open_cache(cache, note=progress.note)
    return run_recipe(
        bound,
        Path(out),
        force=force,
        wait=wait,
        require_device=require_device,
        sign=key,
        require_licence=require_licence,
        progress=progress,
        limits=limits,
        last_word=last_word,
        cache=cache,
        ranks=ranks,
        device_map=device_map,
    )


def verify(package: str | Path, *, threads: int = 1, key: str | Path | None = None) -> dict[str, Any]:
    """Check every file and what the manifest says, and replay all that is shipped in its runtime; offline.

    `key`: a public key in PEM, by which the package must be signed.

    Raises:
        PackageDamaged: names the first thing that is wrong.
        GateFailed: nothing is wrong, but the package was never proven.

    """
    from converter.package.signature import signed_by
    from converter.package.verify import verify_package

    folder = Path(package)
    signed = signed_by(folder, None if key is None else Path(key))  # before anything of it is opened
    return verify_package(folder, threads=threads) | signed


def sign(package: str | Path, key: str | Path) -> Path:
    """Sign a sealed package with a private key in PEM (Ed25519 or an elliptic curve); returns the signature's path.

    Raises:
        UsageError: the key cannot be used.
        PackageDamaged: the package is not as it was sealed.

    """
    from converter.package.signature import read_signing_key

    return read_signing_key(Path(key)).sign(Path(package))


def open_package(package: str | Path, *, threads: int = 1) -> "Runner":
    """Open a sealed package in its own runtime."""
    from converter.package.verify import open_sealed

    return open_sealed(Path(package), threads=threads)


__all__ = ["Recipe", "Result", "TargetResult", "convert", "load_recipe", "open_package", "sign", "verify"]
