"""`--resume`, `--cache` and `--cache-size`: the cache of what stages made."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from converter.bounds.sizes import parse_size
from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.stage_cache.cache import StageCache

F = TypeVar("F", bound=Callable[..., Any])


def cache_options(command: F) -> F:
    """Add the three options."""
    resume = click.option(
        "--resume", is_flag=True, help="Keep what each stage makes in a cache, and take from there what is unchanged."
    )
    place = click.option(
        "--cache", metavar="PLACE", help="Folder or URL (fsspec) of that cache, instead of the user's; resumes."
    )
    size = click.option("--cache-size", metavar="SIZE", help="Largest size of the cache, such as 50GB; default: 20GB.")
    return resume(place(size(command)))


def wanted_cache(
    place: str | None, size: str | None, note: Callable[[str], None], *, resume: bool
) -> "StageCache | None":
    """Open the cache that was asked for; None: every stage runs, and nothing is kept.

    Raises:
        UsageError: there is a size and no cache, or the place cannot be one.

    """
    from converter.stage_cache.cache import open_cache

    if not resume and place is None:
        if size is not None:
            raise UsageError("there is no cache to limit", where="--cache-size", hint="add --resume or --cache PLACE")
        return None
    return open_cache(place, limit=wanted_bytes(size), note=note)


def wanted_bytes(size: str | None) -> int:
    """Return the bytes that the cache may hold.

    Raises:
        UsageError: it is no size.

    """
    from converter.stage_cache.cache import DEFAULT_BYTES

    return DEFAULT_BYTES if size is None else parse_size(size, "--cache-size")


def everywhere(place: str | None) -> str | None:
    """Return the place of a cache as other processes find it, whatever folder they run in."""
    return place if place is None or "://" in place else str(Path(place).expanduser().absolute())
