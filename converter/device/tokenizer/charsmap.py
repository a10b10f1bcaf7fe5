"""SentencePiece's precompiled normalizer: its table read out of the double array, and where it looks things up.

Kudo's double array (darts-clone) holds all keys; `tokenizers` looks up a whole grapheme cluster of less than six bytes,
takes the value of the shortest key that the cluster begins with for all of it, and else looks up character by
character. So where clusters begin matters for short ones alone: asked of the library too.
"""

import base64
import struct
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.device.tokenizer.characters import points, spans
from converter.device.tokenizer.form import NoTables, Row, Span, Step, points_text, spans_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLUSTER_BYTES = 6
"""From this size on a cluster is not looked up as a whole."""
LEAF = 1 << 8
LONGEST_KEY = 200
"""In bytes: SentencePiece's own have 20 at most."""
MARK, LETTER = "\u0300", "a"


def charsmap_step(encoded: str) -> Step:
    """Return the step that a `Precompiled` normalizer is.

    Raises:
        NoTables: it is no such table.

    """
    table = keys_of(base64.b64decode(encoded))
    kept = {k: v for k, v in table.items() if len(k) == 1 or len(k.encode()) < CLUSTER_BYTES}
    kept = {k: v for k, v in kept.items() if not any(k[:n] in kept for n in range(1, len(k)))}
    joined = cluster_tables()
    return (
        ("normalize", "clusters"),
        *((name, spans_text(held)) for name, held in joined.items()),
        *(_map_row(k, v) for k, v in sorted(kept.items())),
    )


def _map_row(key: str, value: str) -> Row:
    return "map", points_text(key), points_text(value)


@lru_cache(maxsize=4)
def keys_of(blob: bytes) -> dict[str, str]:
    """Read the keys and values out of a precompiled table.

    Raises:
        NoTables: it is damaged, or of another form.

    """
    try:
        (size,) = struct.unpack_from("<I", blob)
        units = np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64)
        return _walked(units, blob[4 + size :])
    except (struct.error, IndexError, ValueError) as error:
        raise NoTables(f"the table of its Precompiled normalizer is damaged ({error})") from None


def _walked(units: "NDArray[np.int64]", values: bytes) -> dict[str, str]:
    """Go through the double array level by level: the child of a node by byte c lies at (node ^ offset ^ c)."""
    made: dict[str, str] = {}
    # A unit that holds a value has no label.
    labels = np.where(units >> 31, -1, units & 0xFF)
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    bases, keys = offsets[:1], [b""]
    for _ in range(LONGEST_KEY):
        children = bases[:, None] ^ np.arange(1, 256)
        inside = np.minimum(children, len(units) - 1)
        nodes, letters = np.nonzero((labels[inside] == np.arange(1, 256)) & (children < len(units)))
        places = children[nodes, letters]
        keys = [keys[n] + bytes([c + 1]) for n, c in zip(nodes.tolist(), letters.tolist(), strict=True)]
        bases = places ^ offsets[places]
        for i in np.flatnonzero(units[places] & LEAF).tolist():
            start = int(units[bases[i]]) & 0x7FFFFFFF
            made[keys[i].decode()] = values[start : values.index(b"\0", start)].decode()
        if not keys:
            return made
    raise NoTables("the table of its Precompiled normalizer is damaged (its keys have no end)")


@cache
def cluster_tables() -> dict[str, tuple[Span, ...]]:
    """Return which characters join the one before, which the one behind, and which neither.

    Asked of the library by a table that says X for any cluster of less than six bytes.
    """
    whole = _says_x()
    extend = [c for c in points() if whole(LETTER + chr(c)) == "X"]
    prepend = [c for c in points() if chr(c) != LETTER and whole(chr(c) + LETTER) == "X"]
    control = [c for c in points() if c < 0x10000 and whole(chr(c) + MARK) == "XX"]
    return {"extend": spans(extend), "prepend": spans(prepend), "control": spans(control)}


def _says_x() -> Any:
    """Return a normalizer whose table has each single byte for a key, which begins every cluster, and X for a value."""
    from tokenizers import normalizers

    # The root's children lie at 256 ^ c, each a leaf, whose value lies at its place ^ 512: two blocks of 256.
    units = [0] * 1024
    units[0] = _packed(256)
    for c in range(1, 256):
        place = 256 ^ c
        units[place] = _packed(512) | LEAF | c
        units[place ^ 512] = 1 << 31
    blob = struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + b"X\0"
    return normalizers.Precompiled(blob).normalize_str


def _packed(offset: int) -> int:
    return (offset >> 8) << 10 | 1 << 9 if offset >= 256 else offset << 10
