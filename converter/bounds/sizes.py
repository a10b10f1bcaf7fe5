"""Sizes and times as people write them: `4GB`, `512MiB`, `90s`, `1h30m`."""

import re

from converter.errors import UsageError

UNITS = {
    "b": 1,
    **{f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)},
    **{f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)},
}
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[smhd])")
MOST_DIGITS = 15


def parse_size(text: str, where: str) -> int:
    """Return bytes of a number with its unit; GB are decimal, GiB binary.

    Raises:
        UsageError: no unit, an unknown one, or nothing.

    >>> parse_size("512MiB", "--max-memory"), parse_size("1.5 GB", "--max-memory")
    (536870912, 1500000000)

    """
    found = _SIZE.fullmatch(text.strip().lower()) if len(text) < 2 * MOST_DIGITS else None
    unit = UNITS.get(found[2]) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1 or size >= 10**MOST_DIGITS:
        raise UsageError(
            f"wanted a size with its unit, found {text!r:.40}", where=where, hint=f"{where} 4GB, or 512MiB"
        )
    return size


def parse_seconds(text: str, where: str) -> float:
    """Return seconds of a duration such as `90s`, `10m` or `1h30m`.

    Raises:
        UsageError: no unit, an unknown one, or nothing.

    >>> parse_seconds("1h30m", "--timeout")
    5400.0

    """
    rest = text.strip().lower() if len(text) < 2 * MOST_DIGITS else ""
    parts = _TIME.findall(rest)
    seconds = sum(float(n) * SECONDS[unit] for n, unit in parts)
    if _TIME.sub("", rest).strip() or not 0 < seconds < 10**8:
        raise UsageError(
            f"wanted a time with its unit, found {text!r:.40}", where=where, hint=f"{where} 90s, 10m or 2h"
        )
    return seconds


def shown_size(size: float) -> str:
    """Return bytes in decimal units, with three digits.

    >>> shown_size(1_234_567_890)
    '1.23 GB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"
