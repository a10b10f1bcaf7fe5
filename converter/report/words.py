"""Numbers as people read them; the same words in the table, the page and `inspect`."""

from collections.abc import Mapping
from typing import Any

MEGABYTE = 1_000_000
NOTHING = "–"


def size(n_bytes: float | None) -> str:
    """Decimal megabytes, as file managers and app stores count."""
    if n_bytes is None:
        return NOTHING
    if n_bytes < MEGABYTE:
        return f"{n_bytes / 1000:.1f} kB"
    if n_bytes < 1000 * MEGABYTE:
        return f"{n_bytes / MEGABYTE:.1f} MB"
    return f"{n_bytes / (1000 * MEGABYTE):.2f} GB"


def rate(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f} tokens/s"


def milliseconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def share(value: float | None) -> str:
    """Percent, never rounded up to 100: 0.9999 is not all."""
    if value is None:
        return NOTHING
    percent = 100 * value
    return "100 %" if value == 1 else f"{min(percent, 99.9):.1f} %"


def number(value: float | None) -> str:
    """Four significant digits; small numbers in powers of ten."""
    if value is None:
        return NOTHING
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.4f}"


def times(before: float | None, after: float | None) -> str:
    """How many times smaller or faster `after` is."""
    if not before or not after:
        return ""
    ratio = before / after
    return f"{ratio:.1f}×" if ratio < 9.95 else f"{ratio:.0f}×"


def smaller(before: float | None, after: float | None) -> str:
    """How many times smaller, or larger, `after` is."""
    if not before or not after:
        return ""
    return f"{times(before, after)} smaller" if after <= before else f"{times(after, before)} larger"


def zeros(found: Mapping[str, Any], n_bytes: float | None) -> str:
    """What the zeros in a file are worth, in one line."""
    kept = f"{share(found['share'])} of its weights are zero: " if found["share"] is not None else ""
    return f"{kept}{size(found['deflated_bytes'])} in a compressed archive ({size(n_bytes)} uncompressed), no faster"


def plain_value(value: Any) -> str:
    """A value of a manifest on one line."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    return str(value)


def error(value: float | None) -> str:
    """A share of the output range in percent, two digits that count."""
    if value is None:
        return NOTHING
    percent = 100 * value
    if 0 < percent < 0.001:
        return "< 0.001 %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def tick(value: float) -> str:
    """A decade on the axis of errors."""
    return f"{100 * value:g} %" if value >= 1e-7 else f"{100 * value:.0e} %"


def cosine(value: float | None) -> str:
    """Six digits: what matters is how far it is from 1."""
    return NOTHING if value is None else f"{value:.6f}"


def owner(found: Mapping[str, Any] | None) -> str:
    """How the source's answers compare with those of its owner's library, in one line; empty where nothing is known."""
    if not found:
        return ""
    if found["status"] != "PASS":
        return f"not compared with its owner's library: {found['detail']}"
    batch = (
        f" ({found['batched']} of them in batches padded on the {found['padding_side']})" if found["batched"] else ""
    )
    return f"read as {found['library']} reads it: same answers to {found['texts']} raw texts{batch}"
